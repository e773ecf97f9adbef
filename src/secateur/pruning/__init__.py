"""Structured pruning: importance, allocation, the cut of GQA groups and MLP channels, compensation."""

from secateur.pruning.config import PruneConfig
from secateur.pruning.importance import UnitStatistics
from secateur.pruning.layer_importance import LayerImportance, measure_layer_importance
from secateur.pruning.plan import LayerPlan, PruningPlan
from secateur.pruning.prune import PruneResult, prune, score_layers

__all__ = [
    "LayerImportance",
    "LayerPlan",
    "PruneConfig",
    "PruneResult",
    "PruningPlan",
    "UnitStatistics",
    "measure_layer_importance",
    "prune",
    "score_layers",
]
