"""The steps by which halves of layers are narrowed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

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
        costs: what each step adds to the loss or score, never falling.
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
    taken: int = 0
    most: int | None = None
    least: int = 0
    prices: list[float] = field(default_factory=list)

    @classmethod
    def build(
        cls, layer: int, part: Part, shape: PartShape, costs: Sequence[float], multiple: int, reach: Reach = "narrow"
    ) -> "Ladder":
        """Group the costs of single units (in the order of their removal) into steps that leave multiples of a number.

        Where the half as it is has no multiple of it, the first step leads to one.

        Args:
            reach: `narrow` always leaves something, `all` ends with nothing, `whole` has that as its only step.
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
        return cls(layer, part, shape, going, rising, prices=_prices(going, rising, shape))

    @property
    def total(self) -> int:
        """Parameters of the whole half."""
        return self.shape.units * self.shape.unit_parameters

    @property
    def largest_step(self) -> int:
        """Parameters that leave with the largest step; 0 where there is none."""
        return max(self.units, default=0) * self.shape.unit_parameters

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


def _prices(units: Sequence[int], costs: Sequence[float], shape: PartShape) -> list[float]:
    """Each step's cost by the parameters that leave.

    With the last one the half itself may go, and with it the time that it takes beside reading its weights. From where
    on all that is left is cheaper by what that saves than the next step alone, the price is that of the whole.
    """
    prices = [cost / (count * shape.unit_parameters) for count, cost in zip(units, costs, strict=True)]
    if sum(units) < shape.units:
        return prices
    for first, price in enumerate(prices):
        saved = sum(units[first:]) * shape.unit_parameters
        whole = sum(costs[first:]) / (saved + min(HALF_OVERHEAD, shape.units * shape.unit_parameters / 4))
        if whole <= price:
            return [*prices[:first], *[whole] * (len(prices) - first)]
    return prices


def build_ladders(model: PreTrainedModel, config: CutLimits, scores: Sequence[LayerScores]) -> list[Ladder]:
    """The ladders of the layers and halves that the configuration lets be cut."""
    shapes = part_shapes(model)
    multiples = kept_multiples(config, shapes)
    ladders = [
        Ladder.build(
            index, part, shapes[index][part], scores[index][part].costs.tolist(), multiples[index][part], config.reach
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
    model: PreTrainedModel, config: CutLimits, names: Iterable[tuple[int, Part]]
) -> dict[tuple[int, Part], Ladder]:
    """Ladders of these halves of layers of which only the steps matter."""
    shapes = part_shapes(model)
    multiples = kept_multiples(config, shapes)

    def ladder(layer: int, part: Part) -> Ladder:
        shape = shapes[layer][part]
        return Ladder.build(layer, part, shape, [0.0] * shape.units, multiples[layer][part], config.reach)

    return {(layer, part): ladder(layer, part) for layer, part in names}


def units_removed(ladders: Sequence[Ladder]) -> dict[tuple[int, Part], int]:
    """How many units leave each half of each layer, by the ladders' steps taken."""
    return {(ladder.layer, ladder.part): ladder.removed_units() for ladder in ladders}
