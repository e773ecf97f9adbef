"""Search for how a cut is best spread over attention, MLPs and layers."""

from secateur.pruning.search.config import SearchConfig
from secateur.pruning.search.result import Round, SearchResult
from secateur.pruning.search.rounds import check_rounds, search

__all__ = ["Round", "SearchConfig", "SearchResult", "check_rounds", "search"]
