"""What a layer's attention looks like while it is dense, computed where it is and in pieces.

Yoon, Lee, Kim, Moon 2024, "Exploring Attention Sparsity to Accelerate Transformer Training on GPUs": attention averaged
over batch and heads grows skewed as training goes on, and moves less and less.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# What a processor's cache holds, and what keeps a GPU busy.
SCORES_ON_CPU, SCORES_ON_GPU = 2**22, 2**25
EVEN = 1e-12  # Below this variance of entries with mean 1, what is left of even attention is rounding.


@dataclass(frozen=True)
class LayerStatistics:
    """One layer's attention in one batch. All tensors are on the device of the attention.

    Attributes:
        skewness: third standardised moment of the entries of the mean attention matrix, (). NaN where all are equal.
        distance: Frobenius distance to the mean attention matrix observed before, (). NaN at the first.
        change_percent: 100 · |distance − distance before| / distance before, (). NaN at the first two.
        block_attention: mean over batch, heads and the queries of a block, sum over the keys of a block, (blocks,
            blocks): rows sum to 1. A block that was padding in all sequences has the row of its last observation.
        real_blocks: blocks that have held more than padding so far, (blocks,).
    """

    skewness: Tensor
    distance: Tensor
    change_percent: Tensor
    block_attention: Tensor
    real_blocks: Tensor


@dataclass(frozen=True)
class LayerFigures:
    """The numbers of `LayerStatistics`, on the host."""

    skewness: float
    distance: float
    change_percent: float


def layer_figures(statistics: Sequence[LayerStatistics]) -> list[LayerFigures]:
    """The numbers of all layers, in one transfer from the device."""
    numbers = torch.stack([torch.stack([layer.skewness, layer.distance, layer.change_percent]) for layer in statistics])
    return [LayerFigures(*row) for row in numbers.tolist()]


@dataclass
class LayerState:
    """What is remembered of a layer from one observation to the next.

    Attributes:
        mean: attention averaged over batch and heads, (length, length). A query's row is the last one observed.
        seen: queries that have been observed, (length,).
        block_attention: as in `LayerStatistics`.
        distance: the last one, ().
        observations: number of them.
    """

    mean: Tensor
    seen: Tensor
    block_attention: Tensor
    distance: Tensor
    observations: int = 0

    @classmethod
    def empty(cls, num_blocks: int, block_size: int, device: torch.device) -> "LayerState":
        """Nothing observed yet."""
        length = num_blocks * block_size
        return cls(
            mean=torch.zeros(length, length, device=device),
            seen=torch.zeros(length, dtype=torch.bool, device=device),
            block_attention=torch.zeros(num_blocks, num_blocks, device=device),
            distance=torch.full((), torch.nan, device=device),
        )


@dataclass
class AttentionWatch:
    """Follows the attention of all layers from query and key. One L × L matrix per layer is kept, on the device.

    Attributes:
        num_blocks: blocks that cover the longest sequence.
        block_size: queries and keys in a block.
        scores_at_once: attention scores that are held at a time, over batch, heads, queries and keys; None: what
            suits the device.
        layers: what is remembered of each layer that has been observed.
    """

    num_blocks: int
    block_size: int
    scores_at_once: int | None = None

    def __post_init__(self) -> None:
        self.layers: dict[int, LayerState] = {}

    @torch.no_grad()
    def observe(
        self, layer: int, query: Tensor, key: Tensor, key_padding_mask: Tensor | None = None
    ) -> LayerStatistics:
        """Look at a layer's attention in one batch.

        Only positions that hold a token in some sequence count, and in the mean of a query's row only the sequences
        that have one there. Rows of which this holds now and before make up the distance.

        Args:
            layer: which.
            query: (batch, heads, length, head_dim), where length is at most num_blocks · block_size.
            key: as `query`.
            key_padding_mask: True where a token is real, (batch, length); all unless given.
        """
        batch, _, length, _ = query.shape
        if key_padding_mask is None:
            key_padding_mask = torch.ones(batch, length, dtype=torch.bool, device=query.device)
        if layer not in self.layers:
            self.layers[layer] = LayerState.empty(self.num_blocks, self.block_size, query.device)
        state = self.layers[layer]
        missing = len(state.seen) - length
        queries = functional.pad(key_padding_mask.sum(0), (0, missing)).float()  # real ones at each position
        real = queries > 0
        known = real & state.seen
        blocks = torch.arange(len(state.seen), device=query.device)[:, None] // self.block_size
        members = (blocks == torch.arange(self.num_blocks, device=query.device)).float()  # (length, blocks)
        by_block = torch.zeros_like(state.block_attention)
        second, third, moved = torch.zeros(3, device=query.device).unbind()
        for rows, part in mean_attention(query, key, key_padding_mask, self.scores_at_once):
            mean = functional.pad(part, (0, missing))  # (rows, length)
            entries = real[rows, None] & real
            # A row sums to 1 over the real keys, so that entries times their number have a mean of exactly 1.
            deviation = (mean * real.sum() - 1) * entries
            second = second + deviation.pow(2).sum()
            third = third + deviation.pow(3).sum()
            moved = moved + ((mean - state.mean[rows]) * known[rows, None]).pow(2).sum()
            state.mean[rows] = torch.where(real[rows, None], mean, state.mean[rows])
            with torch.autocast(query.device.type, enabled=False):
                by_block += members[rows].T @ (queries[rows, None] * (mean @ members))
        number = real.sum().float().pow(2)
        skewness = _skewness(second / number, third / number)
        distance = moved.sqrt() if state.observations else torch.full_like(moved, torch.nan)
        change = 100 * (distance - state.distance).abs() / state.distance
        in_block = (queries[:, None] * members).sum(0)[:, None]  # (blocks, 1)
        state.block_attention = torch.where(in_block > 0, by_block / in_block.clamp(min=1), state.block_attention)
        state.seen = state.seen | real
        state.distance = distance
        state.observations += 1
        real_blocks = state.seen.view(self.num_blocks, self.block_size).any(1)
        return LayerStatistics(skewness, distance, change, state.block_attention, real_blocks)


def mean_attention(
    query: Tensor, key: Tensor, key_padding_mask: Tensor, scores_at_once: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Attention averaged over heads and over the sequences that have a token at the query, some rows at a time.

    Args:
        query: (batch, heads, length, head_dim).
        key: as `query`.
        key_padding_mask: True where a token is real, (batch, length).
        scores_at_once: attention scores that are held at a time, at least one row; None: what suits the device.

    Yields:
        Which rows, and their attention in float32, (rows, length): 0 for keys, and for queries, that no sequence has.
    """
    batch, heads, length, head_dim = query.shape
    at_once = scores_at_once or (SCORES_ON_GPU if query.is_cuda else SCORES_ON_CPU)
    step = max(1, at_once // (batch * heads * length))
    queries = key_padding_mask.sum(0).clamp(min=1)  # (length,)
    hidden = ~key_padding_mask[:, None, None, :]
    keys = key.float().transpose(2, 3)
    for first in range(0, length, step):
        rows = slice(first, min(first + step, length))
        with torch.autocast(query.device.type, enabled=False):
            scores = query[:, :, rows].float() @ keys * head_dim**-0.5  # (batch, heads, rows, length)
        # Not −∞: a sequence without any token would give NaN, and it counts 0 times.
        shares = scores.masked_fill_(hidden, torch.finfo(scores.dtype).min).softmax(-1)
        weights = key_padding_mask[:, rows] / (heads * queries[rows])  # (batch, rows)
        yield rows, (shares.sum(1) * weights[..., None]).sum(0)


def _skewness(second: Tensor, third: Tensor) -> Tensor:
    return torch.where(second > EVEN, third / second**1.5, torch.nan)
