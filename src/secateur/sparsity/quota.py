"""How many weights of a matrix become zero, and where they may lie."""

import math
import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.errors import InputError

SAMPLE = 1 << 16


@dataclass(frozen=True)
class Pattern:
    """`kept` of every `group` neighbouring weights of a row stay: 2:4 is `Pattern(2, 4)`."""

    kept: int
    group: int

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Read `2:4`. Raises `ValueError` where it is no pattern."""
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise ValueError(f"'{text}' is no pattern; write N:M with N below M, 2:4 for two of every four kept")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"

    @property
    def sparsity(self) -> float:
        return 1 - self.kept / self.group


@dataclass(frozen=True)
class Quota:
    """The zeros of one matrix of (out_features, in_features).

    Attributes:
        rows: out_features.
        columns: in_features.
        zeros: how many weights become zero.
        pattern: N:M, where there is one; `zeros` follows from it.
        per_row: whether all rows lose alike (the first ones one more, where that does not come out even), or the
            whole matrix is one ranking.
        row_weights: in one ranking, what a row's scores count for, (rows, 1); alike where None.
    """

    rows: int
    columns: int
    zeros: int
    pattern: Pattern | None = None
    per_row: bool = True
    row_weights: Tensor | None = None

    @classmethod
    def of_pattern(cls, rows: int, columns: int, pattern: Pattern, where: str = "the matrix") -> "Quota":
        """All groups of every row by one pattern.

        Raises:
            InputError: the pattern's group does not divide the width.
        """
        if columns % pattern.group:
            raise InputError(
                f"the pattern {pattern} does not divide the input width {columns} of {where}; "
                f"choose an M that does, or --skip it"
            )
        return cls(rows, columns, rows * columns // pattern.group * (pattern.group - pattern.kept), pattern)

    def share(self, done: float) -> "Quota":
        """The quota on the way: a part of the zeros, between 0 and 1. With a pattern whole weights of each group."""
        if self.pattern is None:
            return replace(self, zeros=round(self.zeros * done))
        gone = round((self.pattern.group - self.pattern.kept) * done)
        pattern = Pattern(self.pattern.group - gone, self.pattern.group)
        return replace(self, zeros=self.rows * self.columns // pattern.group * gone, pattern=pattern)

    def keep(self, scores: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Which weights stay: those with the higher scores.

        Args:
            scores: (rows, columns), not negative.
            allowed: False for weights that are zero already: they are the first to go, and all of them go.

        Returns:
            Booleans, (rows, columns), with exactly `zeros` that are False, or as many more as are not allowed.
        """
        if allowed is not None and not allowed.all():
            return self.keep(scores.where(allowed, -1.0)) & allowed
        if self.pattern is not None:
            groups = scores.reshape(-1, self.pattern.group)
            return _keep_highest(groups, self.pattern.group - self.pattern.kept).view(scores.shape)
        if not self.per_row:
            ranked = scores if self.row_weights is None else scores * self.row_weights.to(scores.device)
            return _keep_highest(ranked.reshape(1, -1), self.zeros).view(scores.shape)
        lost, more = divmod(self.zeros, self.rows)
        return torch.cat([_keep_highest(scores[:more], lost + 1), _keep_highest(scores[more:], lost)])


def kth_lowest(scores: Tensor, k: int) -> Tensor:
    """The k-th lowest of many numbers, (count,), k from 1: `kthvalue`, among a few that a sample singles out.

    Floyd & Rivest 1975, "Expected Time Bounds for Selection".
    """
    if len(scores) <= 4 * SAMPLE:
        return scores.kthvalue(k).values
    picked = torch.randint(len(scores), (SAMPLE,), generator=torch.Generator().manual_seed(0))
    sample = scores[picked.to(scores.device)].sort().values
    middle, margin = k * SAMPLE // len(scores), 2 * math.isqrt(SAMPLE)  # four standard deviations at the median
    low = sample[middle - margin] if middle > margin else sample.new_tensor(-math.inf)
    high = sample[middle + margin] if middle + margin < SAMPLE else sample.new_tensor(math.inf)
    below = int((scores < low).sum())
    among = scores[(scores >= low) & (scores <= high)]
    if below < k <= below + len(among):
        return among.kthvalue(k - below).values
    return scores.kthvalue(k).values


def _keep_highest(scores: Tensor, lost: int) -> Tensor:
    """True but for the `lost` lowest of each row of `scores` (rows, columns); of equal scores the first ones go."""
    if lost == 0 or len(scores) == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if len(scores) == 1:
        threshold = kth_lowest(scores[0], lost)[None, None]
    else:
        threshold = scores.kthvalue(lost, dim=1, keepdim=True).values
    keep = scores > threshold
    more = scores.shape[1] - lost - keep.sum(1)  # of those at the threshold stay
    (tied,) = more.nonzero(as_tuple=True)
    if len(tied):
        row, column = (scores[tied] == threshold[tied]).nonzero(as_tuple=True)
        from_the_end = row.bincount().cumsum(0)[row] - torch.arange(len(row), device=row.device)  # 1 for a row's last
        stay = from_the_end <= more[tied][row]
        keep[tied[row[stay]], column[stay]] = True
    return keep
