"""What a model costs, half by half of its layers: parameters, bytes, or milliseconds for a token."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from secateur.costs.quantities import shown_size, shown_time
from secateur.models.halves import Part

Units = Mapping[tuple[int, Part], int]


@dataclass(frozen=True, kw_only=True)
class Measure(ABC):
    """What a model costs, as the sum of a fixed part and of one for each half of a layer.

    Attributes:
        units: how many units each half has in the uncut model.
        fixed: what the rest of the model costs.
        target: what the cut model may cost.
        asked: the target as it was given: `--target-memory 6GB`.
    """

    units: Units
    fixed: float
    target: float
    asked: str

    @abstractmethod
    def of_half(self, layer: int, part: Part, units: float) -> float:
        """What a half of a layer with so many units costs."""

    @abstractmethod
    def shown(self, cost: float) -> str:
        """A cost in words."""

    @property
    def whole(self) -> float:
        """What the uncut model costs."""
        return self.of_model(self.units)

    def of_model(self, units: Units) -> float:
        """What the model costs with so many units in each half."""
        return self.fixed + sum(self.of_half(layer, part, count) for (layer, part), count in units.items())

    def allows(self, cost: float, tolerance: float) -> bool:
        """Whether a cost meets the target from below, within a share of it."""
        return -tolerance * self.target <= cost - self.target <= 1e-9 * self.target


@dataclass(frozen=True, kw_only=True)
class Bytes(Measure):
    """Memory: weights as they are stored, and the KV cache.

    Attributes:
        weights: bytes of a unit's weights, by half.
        cached: bytes of a unit's keys and values, by half.
        whole_halves: bytes that leave only with all of a half: the norms that are its own.
        fixed_cache: of `fixed`, what the cache takes: states of linear attention.
        passed_over: of `fixed`, what no token reads: embeddings that are not the head, of which one row is looked up.
    """

    weights: Mapping[tuple[int, Part], float]
    cached: Mapping[tuple[int, Part], float]
    whole_halves: Mapping[tuple[int, Part], float] = field(default_factory=dict)
    fixed_cache: float = 0.0
    passed_over: float = 0.0

    def of_half(self, layer: int, part: Part, units: float) -> float:
        name = (layer, part)
        return units * (self.weights[name] + self.cached[name]) + (self.whole_halves.get(name, 0.0) if units else 0.0)

    def cache(self, units: Units) -> float:
        """Bytes of the cache of a model with so many units in each half."""
        return self.fixed_cache + sum(count * self.cached[name] for name, count in units.items())

    def shown(self, cost: float) -> str:
        return shown_size(cost)


@dataclass(frozen=True, kw_only=True)
class Milliseconds(Measure):
    """Time for a decoded token.

    Attributes:
        curves: for each half, milliseconds by number of units, both rising; what is between is interpolated.
    """

    curves: Mapping[tuple[int, Part], tuple[tuple[float, float], ...]]

    def of_half(self, layer: int, part: Part, units: float) -> float:
        return interpolated(self.curves[layer, part], units)

    def shown(self, cost: float) -> str:
        return shown_time(cost)


def interpolated(curve: tuple[tuple[float, float], ...], units: float) -> float:
    """The value of a curve at a number of units: of its first point before that, and as it ends behind its last."""
    if not curve:
        return 0.0
    if units <= curve[0][0]:
        return curve[0][1]
    for (left, low), (right, high) in pairwise(curve):
        if units <= right:
            return low + (high - low) * (units - left) / (right - left)
    (left, low), (right, high) = curve[-2:] if len(curve) > 1 else (curve[0], curve[0])
    return high + (high - low) * (units - right) / (right - left) if right > left else high


def never_falling(values: list[float], weights: list[float] | None = None) -> list[float]:
    """The nearest values to these that never fall: neighbours that do are given their (weighted) mean."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights or [1.0] * len(values), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            before = blocks.pop()
            together = before[1] + block[1]
            mean = (before[0] * before[1] + block[0] * block[1]) / together
            block = (mean, together, before[2] + block[2])
        blocks.append(block)
    return [value for value, _, count in blocks for _ in range(count)]
