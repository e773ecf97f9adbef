"""Attention over a list of kept blocks: one function, four backends that agree."""

from typing import Literal, get_args

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.kernels.flex import flex_sparse_attention
from secateur.kernels.gathered import gathered_attention
from secateur.kernels.grid import BlockGrid
from secateur.kernels.reference import reference_attention
from secateur.kernels.triton import triton_is_fast, triton_sparse_attention

Backend = Literal["auto", "reference", "gathered", "flex", "triton"]


def block_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: Tensor,
    causal: bool,
    scale: float | None = None,
    pv_threshold: Tensor | float | None = None,
    *,
    query_block: int = 128,
    key_block: int = 64,
    backend: Backend = "auto",
    int8: bool = False,
) -> Tensor:
    """Softmax attention over the kept blocks of the attention matrix.

    Args:
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, keys, head_dim), where kv_heads divides heads.
        value: as `key`.
        block_mask: blocks that are computed, broadcast to (batch, heads, query blocks, key blocks). Inside them a
            causal mask holds as well. A query that sees no key gives zeros.
        causal: whether query i, the last of them at the last key, sees only keys up to its own position.
        scale: factor of the scores, 1 / √head_dim unless given.
        pv_threshold: inside kept blocks the product of P and V is left out for 64 queries whose scores in the block
            all lie more than this below their running maximum, going through the keys in order; their row sums still
            count it. One number, or one for each head, (heads,). `gathered` and `flex` have no such skipping and
            compute it.
        query_block: queries in a block.
        key_block: keys in a block.
        backend: reference, gathered, flex, triton, or the fastest for these tensors.
        int8: with triton, products of queries and keys in eight bits; the others compute them as they are.

    Returns:
        (batch, heads, queries, head_dim), of the query's type.

    Raises:
        InputError: shapes do not fit each other, or the backend is not there.
    """
    if not query.dim() == key.dim() == value.dim() == 4:
        raise InputError("queries, keys and values have four dimensions: (batch, heads, tokens, head_dim)")
    if backend not in get_args(Backend):
        raise InputError(f"there is no backend '{backend}'; choose {', '.join(get_args(Backend))}")
    batch, heads, queries, width = query.shape
    if key.shape != value.shape or key.shape[0] != batch or key.shape[3] != width or heads % key.shape[1]:
        raise InputError(
            f"queries of shape {tuple(query.shape)} do not go with keys of {tuple(key.shape)} and values of "
            f"{tuple(value.shape)}: batch and head size must be equal, and the heads a multiple of the keys' heads"
        )
    if causal and queries > key.shape[2]:
        raise InputError(f"with a causal mask {queries} queries cannot be the last of {key.shape[2]} keys")
    grid = BlockGrid(queries, key.shape[2], causal, query_block, key_block)
    if block_mask.shape[-2:] != (grid.rows, grid.columns):
        raise InputError(f"a mask of {tuple(block_mask.shape)} blocks does not fit {grid.rows} by {grid.columns}")
    if block_mask.dtype != torch.bool:
        raise InputError(f"a mask of blocks is of booleans, not {str(block_mask.dtype).removeprefix('torch.')}")
    blocks = _expanded(block_mask & grid.visible(query.device), (batch, heads, -1, -1), "the mask of blocks")
    if pv_threshold is not None:
        pv_threshold = torch.as_tensor(pv_threshold, dtype=torch.float32, device=query.device)
        pv_threshold = _expanded(pv_threshold, (heads,), "pv_threshold")
    scale = width**-0.5 if scale is None else scale
    chosen = fastest_backend(query, grid) if backend == "auto" else backend
    if chosen == "triton":
        return triton_sparse_attention(query, key, value, blocks, grid, scale, pv_threshold, int8)
    kernels = {"reference": reference_attention, "gathered": gathered_attention, "flex": flex_sparse_attention}
    return kernels[chosen](query, key, value, blocks, grid, scale, pv_threshold)


def _expanded(tensor: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    try:
        return tensor.expand(shape)
    except RuntimeError as error:
        raise InputError(f"{name} of shape {tuple(tensor.shape)} does not fit the queries' batch and heads") from error


def fastest_backend(query: Tensor, grid: BlockGrid) -> Backend:
    """Triton on a CUDA device where it can run these blocks, else gathered."""
    return "triton" if triton_is_fast(query, grid) else "gathered"
