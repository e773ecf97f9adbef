"""Which blocks of a layer's attention are kept, and learning it while training is dense."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.errors import TrainingError

logger = logging.getLogger(__name__)

ROUNDING = 1e-9
INITIAL_SPREAD = 0.1


@dataclass(frozen=True, eq=False)
class BlockPattern:
    """The blocks of a layer's attention matrix that are computed, the same for all sequences and heads.

    Attributes:
        blocks: True where a block is kept, (rows, columns).
        block_size: queries and keys in a block.
    """

    blocks: Tensor
    block_size: int

    @property
    def rows(self) -> int:
        """Query blocks."""
        return self.blocks.shape[0]

    @property
    def columns(self) -> int:
        """Key blocks."""
        return self.blocks.shape[1]

    @property
    def density(self) -> float:
        """Share of the blocks that is kept."""
        return float(self.blocks.float().mean())

    def cropped(self, blocks: int) -> "BlockPattern":
        """The pattern of sequences that end after so many blocks."""
        return BlockPattern(self.blocks[:blocks, :blocks].contiguous(), self.block_size)


class PatternLearner(nn.Module):
    """One vector for each block of each layer; their inner products learn where attention goes.

    Yoon, Lee, Kim, Moon 2024, "Exploring Attention Sparsity to Accelerate Transformer Training on GPUs". The matrix of
    inner products is symmetric: it says which blocks have to do with each other, not which looks at which.

    Args:
        num_layers: layers, each with its own vectors.
        num_blocks: blocks in a row of the attention matrix.
        head_dim: length of the vectors.
    """

    def __init__(self, num_layers: int, num_blocks: int, head_dim: int) -> None:
        super().__init__()
        # All products begin near 1 / num_blocks, as with even attention. Where they began at random it would be chance
        # that orders the blocks between which attention makes little difference.
        even = (num_blocks * head_dim**0.5) ** -0.5
        self.vectors = nn.Parameter(even * (1 + INITIAL_SPREAD * torch.randn(num_layers, num_blocks, head_dim)))

    def gram(self) -> Tensor:
        """Inner products over √head_dim, (layers, blocks, blocks)."""
        return self.vectors @ self.vectors.transpose(1, 2) / self.vectors.shape[-1] ** 0.5

    def loss(self, block_attention: Tensor, real_blocks: Tensor | None = None) -> Tensor:
        """Mean squared difference between the inner products and the attention of blocks.

        Args:
            block_attention: (layers, blocks, blocks): the mean over sequences, heads and the queries of a block, and
                the sum over the keys of a block. With the mean over keys too, entries would be of the order of
                1 / length, their squares would vanish beside the loss of the task, and nothing would be learned.
            real_blocks: blocks that hold more than padding, (blocks,); all unless given. Others do not count.
        """
        squares = (self.gram() - block_attention.detach().to(self.vectors.dtype)).square()
        if real_blocks is None:
            return squares.mean()
        counted = (real_blocks[:, None] & real_blocks).to(squares.dtype)  # (blocks, blocks)
        return (squares * counted).sum() / (counted.sum() * len(squares)).clamp(min=1)


def choose_blocks(scores: Tensor, density: float, real_blocks: Tensor | None = None) -> Tensor:
    """The diagonal, and the blocks with the highest scores beside it, `density` of all in all.

    The diagonal is part of the share, and stays where the share is smaller: every query sees at least its own block,
    and no row and no column is empty. Of equal scores the one further up and left goes first.

    Args:
        scores: what a block is worth, (blocks, blocks).
        density: share of the blocks that is kept.
        real_blocks: blocks that hold more than padding, (blocks,); all unless given. The share is one of these, and
            of the others only the diagonal stays.

    Returns:
        Booleans, (blocks, blocks).

    Raises:
        TrainingError: scores are not finite.
    """
    if not bool(scores.isfinite().all()):
        raise TrainingError("the block scores of the attention pattern are not finite; take a smaller learning_rate")
    diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    real = scores.new_ones(len(scores), dtype=torch.bool) if real_blocks is None else real_blocks
    number = int(real.sum())
    count = int(number**2 * density + ROUNDING) - number
    others = real[:, None] & real & ~diagonal
    rank = scores.masked_fill(~others, -torch.inf).flatten()
    order = rank.argsort(descending=True, stable=True)
    kept = diagonal.flatten()
    kept[order[: max(0, count)]] = True
    return kept.view_as(scores)


def choose_patterns(
    scores: Iterable[Tensor], density: float, block_size: int, real_blocks: Tensor | None = None
) -> list[BlockPattern]:
    """A pattern for each layer, as `choose_blocks` says.

    Args:
        scores: of the blocks of each layer, (blocks, blocks): `PatternLearner.gram`, or the attention of blocks.
        density: share of the blocks that is kept.
        block_size: queries and keys in a block.
        real_blocks: blocks that hold more than padding, (blocks,).

    Raises:
        TrainingError: scores are not finite.
    """
    patterns = [
        BlockPattern(choose_blocks(of_layer.detach().float(), density, real_blocks), block_size) for of_layer in scores
    ]
    if any(1 < pattern.rows == int(pattern.blocks.sum()) for pattern in patterns):
        logger.warning(
            "A density of %g leaves room for nothing but the diagonal of blocks; raise density%s",
            density,
            _advice_on_length(patterns[0].rows, real_blocks),
        )
    return patterns


def _advice_on_length(blocks: int, real_blocks: Tensor | None) -> str:
    """What else helps: smaller blocks, and a model no longer than the data."""
    real = blocks if real_blocks is None else int(real_blocks.sum())
    if real == blocks:
        return " or lower block_size"
    return (
        f" or lower block_size; the sequences fill {real} of the model's {blocks} blocks: set max_seq_len to the "
        "--max-length of the data"
    )
