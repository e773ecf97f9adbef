"""Errors of all thresholds at once: what a head's output becomes when blocks are left out, in one pass of dense cost.

A query block's output is N / l: N, the sum of P·V over the key blocks, and l, the sum of P's rows. Both are sums over
blocks, so the output for every set of blocks follows from each block's own part, which is computed once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal, Self

import torch
from torch import Tensor

from secateur.attention.blocks import Prediction
from secateur.kernels.grid import BlockGrid, grouped_scores
from secateur.kernels.reference import PV_ROWS, block_maxima, group_gaps

Metric = Literal["l1", "cosine", "rmse"]

PARTS_AT_ONCE = 2**26
# A query that sees nothing of what is kept has an output of zeros.
TINY = torch.finfo(torch.float32).tiny


@dataclass
class Curve:
    """Sums over queries by sample, head and threshold, (samples, heads, thresholds) unless it says otherwise.

    Attributes:
        metric: what the error is.
        absolute: of |O − O_dense|; zero where the metric is another than l1.
        squares: of (O − O_dense)².
        products: of O · O_dense; zero where the metric is another than cosine.
        dense: of |O_dense|, (samples, heads, 1).
        dense_squares: of O_dense², (samples, heads, 1).
        kept: blocks that are computed; for thresholds of P·V, groups of queries in them.
        all: blocks that are visible, or groups in kept blocks, (samples, heads, 1).
    """

    metric: Metric
    absolute: Tensor
    squares: Tensor
    products: Tensor
    dense: Tensor
    dense_squares: Tensor
    kept: Tensor
    all: Tensor

    @classmethod
    def zeros(cls, metric: Metric, samples: int, heads: int, thresholds: int, device: torch.device) -> Self:
        """A curve of no text."""
        widths = (thresholds, thresholds, thresholds, 1, 1, thresholds, 1)
        return cls(
            metric, *(torch.zeros(samples, heads, width, dtype=torch.float64, device=device) for width in widths)
        )

    def add(self, heads: slice, output: Tensor, dense: Tensor, kept: Tensor, counted: Tensor) -> None:
        """Add queries.

        Args:
            heads: which.
            output: (batch, heads, thresholds, queries, head_dim); it is overwritten.
            dense: (batch, heads, queries, head_dim).
            kept: (batch, heads, thresholds).
            counted: (batch, heads).
        """
        over, place = (3, 4), dense[:, :, None]
        if self.metric == "cosine":
            self.products[:, heads] += (output * place).sum(over)
        difference = output.sub_(place)
        if self.metric == "l1":
            self.absolute[:, heads] += torch.linalg.vector_norm(difference, 1, dim=over)
        self.squares[:, heads] += torch.linalg.vector_norm(difference, dim=over).square()
        self.dense[:, heads] += torch.linalg.vector_norm(place, 1, dim=over)
        self.dense_squares[:, heads] += torch.linalg.vector_norm(place, dim=over).square()
        self.kept[:, heads] += kept
        self.all[:, heads] += counted[..., None]

    def beside(self, other: Self) -> Self:
        """The curve of this one's samples and another's."""
        names = [field.name for field in fields(self) if field.name != "metric"]
        return type(self)(self.metric, *(torch.cat([getattr(self, name), getattr(other, name)]) for name in names))

    @property
    def error(self) -> Tensor:
        """Relative error of the heads' outputs in the worst sample: l1, rmse, or one less the cosine.

        Returns:
            (heads, thresholds).
        """
        if self.metric == "l1":
            errors = self.absolute / self.dense
        elif self.metric == "rmse":
            errors = (self.squares / self.dense_squares).sqrt()
        else:
            norm = self.squares + 2 * self.products - self.dense_squares  # of O²
            errors = 1 - self.products / (norm * self.dense_squares).sqrt()
        return errors.amax(0)

    @property
    def squared_error(self) -> Tensor:
        """Squared error relative to the dense output's squares, mean over samples, (heads, thresholds)."""
        return (self.squares / self.dense_squares).mean(0)

    @property
    def sparsity(self) -> Tensor:
        """Share that is left out of all samples, (heads, thresholds)."""
        return 1 - self.kept.sum(0) / self.all.sum(0)


@dataclass(frozen=True)
class BlockParts:
    """One query block against each key block it sees.

    Attributes:
        row: the query block.
        heads: which heads.
        products: P·V, (batch, heads, blocks, queries, head_dim), with P = exp(scores − the row's highest).
        sums: of the rows of P, (batch, heads, blocks, queries).
        maxima: highest score of each query, (batch, heads, queries, blocks).
    """

    row: int
    heads: slice
    products: Tensor
    sums: Tensor
    maxima: Tensor

    @property
    def dense(self) -> Tensor:
        """The output with all blocks, (batch, heads, queries, head_dim)."""
        return self.products.sum(2) / self.sums.sum(2)[..., None]

    def weighted(self, kept: Tensor) -> Tensor:
        """Sums of the products, each block counted as `kept` says.

        Args:
            kept: (batch, heads, thresholds, blocks), zeros and ones.

        Returns:
            (batch, heads, thresholds, queries, head_dim).
        """
        return (kept @ self.products.flatten(3)).unflatten(-1, self.products.shape[3:])


def threshold_curve(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prediction: Prediction,
    grid: BlockGrid,
    scale: float,
    thresholds: Tensor,
    metric: Metric = "l1",
) -> Curve:
    """Errors and sparsity when blocks are taken until a threshold's mass is covered.

    Args:
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, keys, head_dim).
        value: as `key`.
        prediction: in whose order blocks are taken.
        grid: the blocks.
        scale: factor of the scores.
        thresholds: values of `cdfthreshd`, (thresholds,).
        metric: of the error.
    """
    order, mass = prediction.order(grid)
    before = torch.zeros_like(mass).scatter(-1, order, mass.cumsum(-1) - mass)
    before = before.masked_fill(prediction.required, -1)  # (batch, heads, rows, columns)
    thresholds = thresholds.to(mass)
    curve = Curve.zeros(metric, query.shape[0], query.shape[1], len(thresholds), query.device)
    for parts in block_parts(query, key, value, grid, scale):
        blocks = parts.products.shape[2]
        kept = (before[:, parts.heads, parts.row, None, :blocks] < thresholds[:, None]).float()
        total = kept @ parts.sums  # (batch, heads, thresholds, queries)
        output = parts.weighted(kept).div_(total[..., None].clamp_min(TINY))
        counted = torch.full(kept.shape[:2], blocks, device=kept.device)
        curve.add(parts.heads, output, parts.dense, kept.sum(-1), counted)
    return curve


def pv_curve(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: Tensor,
    grid: BlockGrid,
    scale: float,
    thresholds: Tensor,
    metric: Metric = "l1",
) -> Curve:
    """Errors against dense attention when only kept blocks are computed, and P·V in them by a threshold.

    Args:
        query: (batch, heads, queries, head_dim); key and value (batch, kv_heads, keys, head_dim).
        block_mask: kept blocks, (batch, heads, rows, columns).
        grid: the blocks.
        scale: factor of the scores.
        thresholds: values of `pvthreshd`, (thresholds,).
        metric: of the error.
    """
    curve = Curve.zeros(metric, query.shape[0], query.shape[1], len(thresholds), query.device)
    for parts in block_parts(query, key, value, grid, scale):
        blocks, dense = parts.products.shape[2], parts.dense
        chosen = block_mask[:, parts.heads, parts.row, :blocks]  # (batch, heads, blocks)
        gaps = group_gaps(parts.maxima.masked_fill(~chosen[:, :, None], -torch.inf))
        total = (chosen[:, :, None].float() @ parts.sums).squeeze(2)  # (batch, heads, queries)
        for group in range(gaps.shape[2]):
            queries = slice(group * PV_ROWS, (group + 1) * PV_ROWS)
            there = gaps[:, :, group].isfinite()  # (batch, heads, blocks)
            kept = ((gaps[:, :, group, None] <= thresholds.to(gaps)[:, None]) & there[:, :, None]).float()
            some = BlockParts(parts.row, parts.heads, parts.products[:, :, :, queries], parts.sums, parts.maxima)
            output = some.weighted(kept).div_(total[:, :, None, queries, None].clamp_min(TINY))
            curve.add(parts.heads, output, dense[:, :, queries], kept.sum(-1), there.sum(-1))
    return curve


def block_parts(query: Tensor, key: Tensor, value: Tensor, grid: BlockGrid, scale: float) -> Iterator[BlockParts]:
    """Each query block's parts, some heads at a time where they would not fit in memory."""
    batch, heads, _, width = query.shape
    groups = heads // key.shape[1]
    value = torch.nn.functional.pad(value, (0, 0, 0, -grid.keys % grid.key_block))
    value = value.unflatten(2, (-1, grid.key_block))  # (batch, kv_heads, columns, key_block, head_dim)
    for row in range(grid.rows):
        first, end = grid.row_range(row)
        seen = end + grid.offset if grid.causal else grid.keys
        blocks = -(-seen // grid.key_block)
        size = batch * groups * blocks * (end - first) * width
        step = max(1, PARTS_AT_ONCE // size)
        later = ~grid.sees(first, end, query.device)[:, first + grid.offset : seen]
        for kv in range(0, key.shape[1], step):
            kv_heads, chosen = slice(kv, kv + step), slice(kv * groups, (kv + step) * groups)
            scores = grouped_scores(query[:, chosen, first:end] * scale, key[:, kv_heads, :seen])
            if grid.causal:
                scores[..., first + grid.offset :].masked_fill_(later, -torch.inf)
            maxima = block_maxima(scores, grid)
            shares = scores.sub_(maxima.amax(-1, keepdim=True)).exp_()
            if seen % grid.key_block:
                shares = torch.nn.functional.pad(shares, (0, blocks * grid.key_block - seen))
            by_block = shares.unflatten(-1, (blocks, -1)).transpose(2, 3)  # (batch, heads, blocks, queries, key_block)
            values = value[:, kv_heads, :blocks].repeat_interleave(groups, 1)
            sums = by_block.sum(-1, dtype=torch.float32)
            yield BlockParts(row, chosen, (by_block @ values).float(), sums, maxima)
