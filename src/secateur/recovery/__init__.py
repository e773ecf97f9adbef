"""Winning back what a cut has cost: fine-tuning with LoRA or of all weights, with a teacher, and merging."""

from secateur.recovery.config import MergeConfig, RecoverConfig
from secateur.recovery.merging import merge_adapter
from secateur.recovery.merging import merge_adapter as merge
from secateur.recovery.recover import RecoverResult, recover

__all__ = ["MergeConfig", "RecoverConfig", "RecoverResult", "merge", "merge_adapter", "recover"]
