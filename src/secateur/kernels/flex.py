"""Block-sparse attention by PyTorch's compiled `flex_attention`: CPU (bfloat16 pays, float32 does not) and CUDA."""

from functools import cache
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from secateur.kernels.grid import BlockGrid

SHAPES = 64


def flex_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: Tensor,
    grid: BlockGrid,
    scale: float,
    pv_threshold: Tensor | None = None,
) -> Tensor:
    """Arguments as `block_sparse_attention`; what P·V skipping would leave out is computed."""
    blocks = listed_blocks(block_mask, grid)
    grouped = query.shape[1] != key.shape[1]
    return _compiled()(query, key, value, block_mask=blocks, scale=scale, enable_gqa=grouped)


def listed_blocks(block_mask: Tensor, grid: BlockGrid) -> BlockMask:
    """Lists of kept blocks: those that need the causal mask, and those that every query sees whole."""
    whole = grid.whole(block_mask.device)
    offset, keys = grid.offset if grid.causal else grid.keys, grid.keys

    def seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (key <= query + offset) & (key < keys)

    return BlockMask.from_kv_blocks(
        *_listed(block_mask & ~whole),
        *_listed(block_mask & whole),
        BLOCK_SIZE=(grid.query_block, grid.key_block),
        mask_mod=seen,
        seq_lengths=(grid.queries, grid.keys),
        compute_q_blocks=False,
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of each row are kept, and which, those first: (…, rows) and (…, rows, columns)."""
    counts = blocks.sum(-1, dtype=torch.int32)
    return counts, blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)


@cache
def _compiled() -> Any:
    # Each length is compiled for itself; past the limit PyTorch would compute all scores at once.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    return torch.compile(flex_attention, dynamic=False)
