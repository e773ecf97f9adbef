"""Block-sparse attention: a reference, gathered matrix products, FlexAttention and Triton."""

from secateur.kernels.dispatch import Backend, block_sparse_attention, fastest_backend

__all__ = ["Backend", "block_sparse_attention", "fastest_backend"]
