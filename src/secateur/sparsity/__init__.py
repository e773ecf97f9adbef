"""Weight sparsity: scores, patterns, the layer-by-layer cut, the allocation over layers."""

from secateur.sparsity.config import SparsifyConfig
from secateur.sparsity.quota import Pattern
from secateur.sparsity.sparsify import CutMatrix, SparsifyResult, sparsify

__all__ = ["CutMatrix", "Pattern", "SparsifyConfig", "SparsifyResult", "sparsify"]
