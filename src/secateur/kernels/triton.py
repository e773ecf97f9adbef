"""Our Triton kernel's side in PyTorch: lists of blocks, INT8 queries and keys, the launch.

INT8 as in Zhang et al. 2024, "SageAttention: Accurate 8-Bit Attention for Plug-and-play Inference Acceleration".
"""

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.kernels.grid import BlockGrid
from secateur.kernels.reference import PV_ROWS


def triton_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: Tensor,
    grid: BlockGrid,
    scale: float,
    pv_threshold: Tensor | None = None,
    int8: bool = False,
) -> Tensor:
    """Arguments as `block_sparse_attention`, masks expanded to all heads.

    Raises:
        InputError: Triton is not installed, or cannot run these blocks.
    """
    if not installed():
        raise InputError("the backend triton needs the package triton; install it, or use flex or reference")
    if not query.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError("the backend triton needs a CUDA device; use gathered on the CPU")
    if not _fits(query, grid):
        raise InputError(
            f"the backend triton needs query blocks in multiples of {PV_ROWS}, key blocks that are a power of two from "
            "16, and heads of 256 at most; use another block size or the backend flex"
        )
    from secateur.kernels import triton_kernel

    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    whole = grid.whole(query.device)
    counts = torch.stack([(block_mask & whole).sum(-1), block_mask.sum(-1)], -1).to(torch.int32)
    # Blocks that need a mask come last: they are the last ones of their row.
    indices = block_mask.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    query_scales = key_scales = query.new_empty(0, dtype=torch.float32)
    if int8:
        # A constant added to all scores of a query changes no share, so the keys' mean may go.
        query, query_scales = quantised(query, PV_ROWS)
        key, key_scales = quantised(key - key.mean(2, keepdim=True), grid.key_block)
    output = value.new_empty(query.shape)
    with torch.cuda.device_of(query):
        triton_kernel.launch(
            query, key, value, output, counts, indices, query_scales, key_scales, pv_threshold, grid, scale, PV_ROWS
        )
    return output


def quantised(tokens: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Blocks of tokens in eight bits, each with a scale of its own.

    Args:
        tokens: (batch, heads, length, head_dim).
        block: tokens in a block.

    Returns:
        int8 of the same shape, and the scales, (batch, heads, blocks).
    """
    length = tokens.shape[2]
    padded = torch.nn.functional.pad(tokens.float(), (0, 0, 0, -length % block)).unflatten(2, (-1, block))
    scales = (padded.abs().amax((-2, -1)) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    rounded = (padded / scales[..., None, None]).round().to(torch.int8)
    return rounded.flatten(2, 3)[:, :, :length].contiguous(), scales


def triton_is_fast(query: Tensor, grid: BlockGrid) -> bool:
    """Whether the kernel can run these blocks on this device."""
    return query.is_cuda and installed() and _fits(query, grid)


def _fits(query: Tensor, grid: BlockGrid) -> bool:
    power_of_two = grid.key_block & (grid.key_block - 1) == 0
    return grid.query_block % PV_ROWS == 0 and grid.key_block >= 16 and power_of_two and query.shape[-1] <= 256


@cache
def installed() -> bool:
    return importlib.util.find_spec("triton") is not None
