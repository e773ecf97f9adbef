"""Which blocks of the attention matrix matter: predictors of their softmax mass, and the choice by it.

Zhang et al. 2025, "SpargeAttention: Accurate and Training-free Sparse Attention Accelerating Any Model Inference",
for `mean_similarity` and the choice by covered mass.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from secateur.kernels.grid import BlockGrid, grouped_scores

PredictorName = Literal["sampled", "mean-similarity"]

SAMPLED_SCORES_AT_ONCE = 2**22
ROUNDING = 1e-9


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of each block.

    Attributes:
        mass: predicted share of a query block's softmax mass, (batch, heads, rows, columns), 0 where not visible.
        required: blocks that stay whatever their mass, broadcast to the same shape, within the visible ones.
    """

    mass: Tensor
    required: Tensor

    def order(self, grid: BlockGrid) -> tuple[Tensor, Tensor]:
        """Key blocks of each query block in the order in which they are taken, and the mass of each.

        Required ones come first, then the others by falling mass, then those that are not visible.

        Returns:
            Indices of key blocks and their mass, both (batch, heads, rows, columns).
        """
        rank = self.mass + 2 * self.required
        rank = rank.masked_fill(~grid.visible(rank.device), -1)
        order = rank.argsort(dim=-1, descending=True, stable=True)
        return order, self.mass.gather(-1, order)


def choose(
    prediction: Prediction, grid: BlockGrid, cdfthreshd: Tensor | float | None = None, topk: float | None = None
) -> Tensor:
    """The blocks that are computed.

    Args:
        prediction: mass of each block.
        grid: the blocks.
        cdfthreshd: blocks are taken until so much mass is covered; one number, or one for each head, (heads,).
            Above 1 all are taken.
        topk: share of the visible blocks of a query block that are taken, rounded up. With both, taking ends at what
            comes first; required blocks stay in any case.

    Returns:
        Booleans, (batch, heads, rows, columns).
    """
    order, mass = prediction.order(grid)
    visible = grid.visible(mass.device)
    taken = torch.ones_like(mass, dtype=torch.bool)
    if cdfthreshd is not None:
        threshold = torch.as_tensor(cdfthreshd, dtype=mass.dtype, device=mass.device).reshape(-1, 1, 1)
        taken &= mass.cumsum(-1) - mass < threshold
    if topk is not None:
        count = (visible.sum(-1, keepdim=True).double() * topk - ROUNDING).ceil()  # (rows, 1)
        taken &= torch.arange(grid.columns, device=mass.device) < count
    chosen = torch.zeros_like(taken).scatter(-1, order, taken)
    return (chosen | prediction.required) & visible


def sampled(
    query: Tensor, key: Tensor, grid: BlockGrid, scale: float, keep_ends: bool = True, stride: int = 16
) -> Prediction:
    """Softmax mass of key blocks for every `stride`-th query of a block, averaged.

    Args:
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, keys, head_dim), where kv_heads divides heads.
        grid: the blocks.
        scale: factor of the scores.
        keep_ends: whether the first key block and the diagonal always stay.
        stride: one query in so many is looked at, spread evenly over its block.
    """
    batch, heads, _, _ = query.shape
    positions = sampled_queries(grid, stride, query.device)  # (rows, samples)
    samples = positions.shape[1]
    mass = torch.zeros(batch, heads, grid.rows, grid.columns, device=query.device)
    # Which keys are whose block's, so that a product sums over blocks.
    blocks = torch.arange(grid.keys, device=query.device)[:, None] // grid.key_block
    members = (blocks == torch.arange(grid.columns, device=query.device)).to(query.dtype)  # (keys, columns)
    step = max(1, SAMPLED_SCORES_AT_ONCE // (batch * heads * samples * grid.keys))
    for first in range(0, grid.rows, step):
        rows = slice(first, first + step)
        places = positions[rows].flatten()
        last = int(places[-1]) + grid.offset + 1 if grid.causal else grid.keys
        columns = -(-last // grid.key_block)
        scores = grouped_scores(query[:, :, places] * scale, key[:, :, :last])  # (batch, heads, rows · samples, last)
        if grid.causal:
            seen_by_all = int(places[0]) + grid.offset + 1
            later = torch.arange(seen_by_all, last, device=query.device) > places[:, None] + grid.offset
            scores[..., seen_by_all:].masked_fill_(later, -torch.inf)
        by_block = scores.softmax(-1) @ members[:last, :columns]
        mass[:, :, rows, :columns] = by_block.unflatten(2, (-1, samples)).float().mean(3)
    return Prediction(mass, ends(grid, keep_ends, query.device))


def ends(grid: BlockGrid, kept: bool, device: torch.device) -> Tensor:
    """The first key block and the diagonal where they are to be kept, else nothing, (rows, columns)."""
    return grid.fixed(device) & grid.visible(device) & kept


def sampled_queries(grid: BlockGrid, stride: int, device: torch.device) -> Tensor:
    """Indices of queries spread evenly over each query block, (rows, samples)."""
    samples = max(1, grid.query_block // stride)
    starts = torch.arange(grid.rows, device=device) * grid.query_block
    sizes = (grid.queries - starts).clamp_max(grid.query_block)
    middles = (torch.arange(samples, device=device) + 0.5) / samples  # (samples,)
    return starts[:, None] + (middles * sizes[:, None]).long()


def mean_similarity(
    query: Tensor, key: Tensor, grid: BlockGrid, scale: float, keep_ends: bool = True, simthreshd: float = 0.1
) -> Prediction:
    """SpargeAttention's rule: softmax of the products of mean queries and mean keys.

    Blocks whose tokens are unlike each other, mean cosine below `simthreshd`, are not judged by their mean: they are
    kept. Keys are taken less their mean, as in the published kernel. As published no block is fixed, which is
    `keep_ends` off. Arguments as `sampled`.
    """
    key = key.float() - key.float().mean(2, keepdim=True)
    queries, alike_queries = _means(query, grid.query_block)  # (batch, heads, rows, head_dim), (batch, heads, rows)
    keys, alike_keys = _means(key, grid.key_block)
    groups = query.shape[1] // key.shape[1]
    unlike_keys = (alike_keys < simthreshd).repeat_interleave(groups, 1)[:, :, None]  # (batch, heads, 1, columns)
    unlike_queries = (alike_queries < simthreshd)[..., None]
    visible = grid.visible(query.device)
    scores = grouped_scores(queries, keys).mul_(scale)  # (batch, heads, rows, columns)
    mass = scores.masked_fill_(~visible | unlike_keys, -torch.inf).softmax(-1).nan_to_num()
    return Prediction(mass, ends(grid, keep_ends, query.device) | ((unlike_keys | unlike_queries) & visible))


def _means(tokens: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Mean of each block of tokens, and the mean cosine of its pairs: the squared norm of its mean unit vector."""
    sums, counts = _block_sums(tokens.float(), block)
    units, _ = _block_sums(torch.nn.functional.normalize(tokens.float(), dim=-1), block)
    return sums / counts, (units / counts).square().sum(-1)


def _block_sums(tokens: Tensor, block: int) -> tuple[Tensor, Tensor]:
    length = tokens.shape[2]
    padded = torch.nn.functional.pad(tokens, (0, 0, 0, -length % block))
    starts = torch.arange(0, length, block, device=tokens.device)
    counts = (length - starts).clamp_max(block)[:, None]
    return padded.unflatten(2, (-1, block)).sum(3), counts
