"""secateur makes transformer language models smaller and faster, and wins back the quality that costs."""

from secateur.evaluation import diagnose, evaluate
from secateur.models import load, register_uneven_models, save
from secateur.pruning import prune
from secateur.recovery import merge, recover

register_uneven_models()

__all__ = ["diagnose", "evaluate", "load", "merge", "prune", "recover", "save"]
