"""Block-sparse attention in plain PyTorch: what every other backend must agree with."""

import torch
from torch import Tensor

from secateur.kernels.grid import BlockGrid, grouped_scores

PV_ROWS = 64


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: Tensor,
    grid: BlockGrid,
    scale: float,
    pv_threshold: Tensor | None = None,
) -> Tensor:
    """One query block at a time, in float32. Arguments as `block_sparse_attention`, masks expanded to all heads."""
    values = value.float().repeat_interleave(query.shape[1] // key.shape[1], 1)
    outputs = []
    for row in range(grid.rows):
        first, end = grid.row_range(row)
        scores = grouped_scores(query[:, :, first:end].float(), key.float()) * scale  # (batch, heads, queries, keys)
        kept = grid.by_key(block_mask[:, :, row])[:, :, None] & grid.sees(first, end, query.device)
        scores = scores.masked_fill(~kept, -torch.inf)
        shares = scores.softmax(-1).nan_to_num()
        if pv_threshold is not None:
            gaps = group_gaps(block_maxima(scores, grid))  # (batch, heads, groups, columns)
            skipped = (gaps > pv_threshold[:, None, None]).repeat_interleave(PV_ROWS, 2)[:, :, : end - first]
            shares = shares.masked_fill(grid.by_key(skipped), 0)
        outputs.append(shares @ values)
    return torch.cat(outputs, 2).to(query.dtype)


def block_maxima(scores: Tensor, grid: BlockGrid) -> Tensor:
    """The highest score of each query in each key block, (…, queries, columns)."""
    if scores.shape[-1] % grid.key_block:
        scores = torch.nn.functional.pad(scores, (0, -scores.shape[-1] % grid.key_block), value=-torch.inf)
    return scores.unflatten(-1, (-1, grid.key_block)).amax(-1)


def group_gaps(maxima: Tensor) -> Tensor:
    """How far each group of `PV_ROWS` queries stays below its running maximum in each key block.

    Args:
        maxima: highest score of each query in each key block, in the order of the keys, −inf where the block is not
            kept or not seen, (…, queries, columns).

    Returns:
        The least distance among the group's queries, (…, groups, columns); infinite where none sees the block.
    """
    gaps = (maxima.cummax(-1).values - maxima).nan_to_num(torch.inf, torch.inf)
    padded = torch.nn.functional.pad(gaps, (0, 0, 0, -gaps.shape[-2] % PV_ROWS), value=torch.inf)
    return padded.unflatten(-2, (-1, PV_ROWS)).amin(-2)
