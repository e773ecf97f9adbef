"""The symmetric grid of compressed-tensors: levels of a few bits, and a scale for each group of a row's columns."""

from dataclasses import dataclass

import torch
from torch import Tensor

CANDIDATES = 32
LEAST_RANGE = 0.5  # of the largest weight of a group: what the smallest scale tried still reaches
ROWS_AT_ONCE = 1 << 20  # weights


@dataclass(frozen=True)
class Grid:
    """What weights may be: level · scale.

    Attributes:
        bits: of a level, −2^(bits−1) … 2^(bits−1) − 1.
        group: neighbouring columns of a row that share a scale.
        dtype: the number format in which scales are stored; each is a number of it.
    """

    bits: int
    group: int
    dtype: torch.dtype = torch.float32

    @property
    def lowest(self) -> int:
        return -(2 ** (self.bits - 1))

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def levels(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The nearest levels of weights, as floats; the scale is of the same shape, or broadcasts."""
        return (weight / scale).round_().clamp_(self.lowest, self.highest)

    def stored(self, scale: Tensor) -> Tensor:
        """Scales as they will be stored, in float32, none of them zero."""
        least = torch.finfo(self.dtype).tiny
        kept = scale.to(self.dtype).float()
        return torch.where(kept.abs() < least, torch.full_like(kept, least), kept)

    def usual_scales(self, weight: Tensor) -> Tensor:
        """The scales whose range just holds each group's largest weight, (out_features, groups): round to nearest."""
        largest = weight.float().unflatten(1, (-1, self.group)).abs().amax(-1)
        return self.stored(largest / ((self.highest - self.lowest) / 2))

    def best_scales(self, weight: Tensor, importance: Tensor) -> Tensor:
        """The scales with the least squared error of the nearest levels, among some, weighted by column.

        Args:
            weight: W, (out_features, in_features).
            importance: what a squared error in a column counts, (in_features,).

        Returns:
            (out_features, groups) float32, each a number of `dtype`.
        """
        rows = max(1, ROWS_AT_ONCE // weight.shape[1])
        return torch.cat([self._best(part.float(), importance) for part in weight.split(rows)])

    def _best(self, weight: Tensor, importance: Tensor) -> Tensor:
        grouped = weight.unflatten(1, (-1, self.group))  # (rows, groups, group)
        counts = importance.float().unflatten(0, (-1, self.group))
        reach = grouped.abs().amax(-1) / -self.lowest
        best, least = self.stored(reach), torch.full_like(reach, torch.inf)
        # From where the largest weight is clipped by half, to where it is a half-step inside of the grid.
        shares = torch.linspace(LEAST_RANGE, -self.lowest / (self.highest - 0.5), CANDIDATES).tolist()
        for share in shares:
            scale = self.stored(reach * share)
            off = self.levels(grouped, scale[..., None]).mul_(scale[..., None]).sub_(grouped)
            error = off.square_().mul_(counts).sum(-1)
            better = error < least
            best, least = torch.where(better, scale, best), torch.where(better, error, least)
        return best
