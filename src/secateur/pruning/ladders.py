"""The steps by which halves of layers are narrowed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from transformers import PreTrainedModel

from secateur.costs.measure import Measure, never_falling
from secateur.errors import InputError
from secateur.models.halves import PARTS, Part
from secateur.pruning.config import CutLimits, Reach
from secateur.pruning.cutting import HalfName
from secateur.pruning.importance import LayerScores
from secateur.pruning.multiples import kept_multiples
from secateur.pruning.units import PartShape, part_shapes

# Norms, operations that are begun, threads that wait for each other: an estimate of how many parameters a CPU reads in
# the time that they take in a half.
HALF_OVERHEAD = 500_000
LEAST_SAVED = 1e-6  # of what all steps of a half save
ROUNDING = 1e-9


@dataclass
class Ladder:
    """The steps by which one half of a layer is narrowed, cheapest first.

    A step of attention is one GQA group, or as many as the cards that share a layer. A step of the MLP is as many
    channels as leave a multiple of 32, say (`multiples`). With the last one the half leaves whole, where it may.

    Attributes:
        layer: the layer's index.
        part: attention or mlp.
        shape: its units.
        units: units that leave with each step.
        costs: what each step adds to the loss or score, never falling by unit.
        saved: what each step saves: parameters, or what another measure counts.
        taken: how many steps are taken.
        most: how many may be taken; all if None.
        least: how many have to be.
        prices: what each step costs by what it saves, never falling.
    """

    layer: int
    part: Part
    shape: PartShape
    units: list[int]
    costs: list[float]
    saved: list[float]
    taken: int = 0
    most: int | None = None
    least: int = 0
    prices: list[float] = field(default_factory=list)

    @classmethod
    def build(
        cls,
        layer: int,
        part: Part,
        shape: PartShape,
        costs: Sequence[float],
        multiple: int,
        reach: Reach = "narrow",
        measure: Measure | None = None,
    ) -> "Ladder":
        """Group the costs of single units (in the order of their removal) into steps that leave multiples of a number.

        Where the half as it is has no multiple of it, the first step leads to one. A step that saves nothing is one
        with those after it, until they do.

        Args:
            reach: `narrow` always leaves something, `all` ends with nothing, `whole` has that as its only step.
            measure: what steps are to save; parameters if None.
        """
        steps, position = [], 0
        width = shape.units % multiple or multiple
        while reach != "whole" and position + width <= len(costs) and shape.units - position - width >= multiple:
            steps.append((width, sum(costs[position : position + width])))
            position += width
            width = multiple
        if reach != "narrow" and shape.may_leave and shape.divisible and shape.units:
            steps.append((shape.units - position, sum(costs[position:])))
        ceiling, rising = 0.0, []
        for units, cost in steps:
            ceiling = max(ceiling, cost / units)
            rising.append(ceiling * units)
        going = [units for units, _ in steps]
        saved = _savings(going, layer, part, shape, measure)
        if measure is not None:
            going, rising, saved = _saving_steps(going, rising, saved, shape.units)
        overhead = min(HALF_OVERHEAD, shape.units * shape.unit_parameters / 4) if measure is None else 0
        prices = _prices(rising, saved, overhead if sum(going) == shape.units else 0)
        return cls(layer, part, shape, going, rising, saved, prices=prices)

    @property
    def total(self) -> int:
        """Parameters of the whole half."""
        return self.shape.units * self.shape.unit_parameters

    @property
    def largest_step(self) -> float:
        """What the step saves that saves most; 0 where there is none."""
        return max(self.saved, default=0)

    @property
    def may_leave_whole(self) -> bool:
        """Whether nothing of the half is left after the last step."""
        return bool(self.units) and sum(self.units) == self.shape.units

    @property
    def is_whole_next(self) -> bool:
        """Whether the half leaves whole with the next step."""
        return self.removed_units() + self.units[self.taken] == self.shape.units

    @property
    def left(self) -> bool:
        """Whether another step can be taken."""
        return self.taken < (len(self.units) if self.most is None else self.most)

    def parameters(self, step: int) -> int:
        """Parameters that leave with a step."""
        return self.units[step] * self.shape.unit_parameters

    def removed_units(self) -> int:
        return sum(self.units[: self.taken])

    def removed_parameters(self) -> int:
        return self.removed_units() * self.shape.unit_parameters

    def saved_so_far(self) -> float:
        """What the steps taken save."""
        return sum(self.saved[: self.taken])


def _savings(units: Sequence[int], layer: int, part: Part, shape: PartShape, measure: Measure | None) -> list[float]:
    """What each step saves."""
    if measure is None:
        return [count * shape.unit_parameters for count in units]
    left = shape.units - np.cumsum([0, *units])
    costs = [measure.of_half(layer, part, int(count)) for count in left]
    return [before - after for before, after in pairwise(costs)]


def _saving_steps(
    units: Sequence[int], costs: Sequence[float], saved: Sequence[float], there: int
) -> tuple[list[int], list[float], list[float]]:
    """Steps put together so that each saves something; what saves nothing to the end is left out, but a whole half."""
    least, together = LEAST_SAVED * sum(saved), [0, 0.0, 0.0]
    found: list[tuple[int, float, float]] = []
    for count, cost, saving in zip(units, costs, saved, strict=True):
        together = [together[0] + count, together[1] + cost, together[2] + saving]
        if together[2] > least:
            found.append((int(together[0]), together[1], together[2]))
            together = [0, 0.0, 0.0]
    if together[0] and sum(units) == there:
        if found:
            count, cost, saving = found.pop()
            together = [together[0] + count, together[1] + cost, together[2] + saving]
        found.append((int(together[0]), together[1], together[2]))
    return [step[0] for step in found], [step[1] for step in found], [step[2] for step in found]


def _prices(costs: Sequence[float], saved: Sequence[float], overhead: float) -> list[float]:
    """Each step's cost by what it saves. A step dearer than what follows has the price of both, as often as needed.

    With the last step the half itself may go, and with it the time that it takes beside reading its weights
    (`overhead`). From where on all that is left is cheaper by what that saves than the next step alone, the price is
    that of the whole.
    """
    prices = [cost / saving if saving > 0 else math.inf for cost, saving in zip(costs, saved, strict=True)]
    if any(after < before * (1 - ROUNDING) for before, after in pairwise(prices)):
        prices = never_falling(prices, [max(saving, 0.0) for saving in saved])
    if not overhead:
        return prices
    for first, price in enumerate(prices):
        whole = sum(costs[first:]) / (sum(saved[first:]) + overhead)
        if whole <= price:
            return [*prices[:first], *[whole] * (len(prices) - first)]
    return prices


def build_ladders(
    model: PreTrainedModel, config: CutLimits, scores: Sequence[LayerScores], measure: Measure | None = None
) -> list[Ladder]:
    """The ladders of the layers and halves that the configuration lets be cut, by what a measure counts."""
    shapes = part_shapes(model)
    multiples = kept_multiples(config, shapes)
    ladders = [
        Ladder.build(
            index,
            part,
            shapes[index][part],
            scores[index][part].costs.tolist(),
            multiples[index][part],
            config.reach,
            measure,
        )
        for index in config.cut_layers(len(shapes))
        for part in PARTS
        if config.cuts(part)
    ]
    droppable = {(ladder.layer, ladder.part): ladder for ladder in ladders if ladder.may_leave_whole}
    asked = config.asked_to_leave(len(shapes))
    for layer, part in sorted(asked - droppable.keys()):
        raise InputError(f"--drop names the {part} of layer {layer}, which {_why_it_stays(shapes[layer][part])}")
    for name in asked | _cheapest_layers(droppable, config.drop_layers):
        droppable[name].least = len(droppable[name].units)
    return ladders


def _why_it_stays(shape: PartShape) -> str:
    if not shape.units:
        return "is not there"
    if not shape.divisible:
        return f"cannot leave: it is {shape.stays_as}"
    if not shape.may_leave:
        return "cannot leave: this family's layers keep theirs"
    return "cannot leave: --target, --layers or --freeze keep it"


def _cheapest_layers(droppable: Mapping[HalfName, Ladder], count: int) -> set[HalfName]:
    """The halves of so many layers that cost least as a whole. Raises `InputError` where fewer can leave."""
    whole = [layer for layer, part in droppable if part == PARTS[0] and (layer, PARTS[1]) in droppable]
    if count > len(whole):
        raise InputError(
            f"--drop-layers {count} is more than the {len(whole)} layers that can leave whole in this model, with "
            "--target, --layers and --freeze as they are"
        )

    def cost(layer: int) -> float:
        return sum(sum(droppable[layer, part].costs) for part in PARTS)

    return {(layer, part) for layer in sorted(whole, key=cost)[:count] for part in PARTS}


def unpriced_ladders(
    model: PreTrainedModel, config: CutLimits, names: Iterable[tuple[int, Part]], measure: Measure | None = None
) -> dict[tuple[int, Part], Ladder]:
    """Ladders of these halves of layers of which only the steps matter."""
    shapes = part_shapes(model)
    multiples = kept_multiples(config, shapes)

    def ladder(layer: int, part: Part) -> Ladder:
        shape = shapes[layer][part]
        return Ladder.build(layer, part, shape, [0.0] * shape.units, multiples[layer][part], config.reach, measure)

    return {(layer, part): ladder(layer, part) for layer, part in names}


def units_removed(ladders: Sequence[Ladder]) -> dict[tuple[int, Part], int]:
    """How many units leave each half of each layer, by the ladders' steps taken."""
    return {(ladder.layer, ladder.part): ladder.removed_units() for ladder in ladders}
