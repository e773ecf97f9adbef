"""Sparse attention without training: which blocks matter, thresholds per head, and the hook into models."""

from secateur.attention.against_dense import compare_with_dense as compare
from secateur.attention.config import SparseOptions, TuneConfig
from secateur.attention.generate import generate
from secateur.attention.heldout import heldout_errors
from secateur.attention.hook import Applied, apply, remove
from secateur.attention.profile import AttentionProfile
from secateur.attention.tuning import tune
from secateur.kernels import block_sparse_attention

__all__ = [
    "Applied",
    "AttentionProfile",
    "SparseOptions",
    "TuneConfig",
    "apply",
    "block_sparse_attention",
    "compare",
    "generate",
    "heldout_errors",
    "remove",
    "tune",
]
