"""A cut made of output projections: a half whose projection has zero columns for some units is the half without them.

So the model keeps its shape while cuts are tried, and a half is moved to another width by handing it another
projection.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.models.adapters import adapter_of
from secateur.pruning.allocation import Ladder
from secateur.pruning.cutting import halves_towards_uncut, removals_towards
from secateur.pruning.units import PARTS, Part, output_projection, part_shape

HalfName = tuple[int, Part]
MOVES = 16  # a half moves by a sixteenth of its steps at least


@dataclass
class Candidates:
    """Half a layer cut to its present width and to ones nearby, each re-fitted.

    Attributes:
        ladder: the half's steps, with the squared error per token that each adds; `taken` is the present width.
        order: units in the order in which they go.
        projections: by the number of steps taken, the output projection, (out_features, in_features), with zero
            columns for the units that are gone.
    """

    ladder: Ladder
    order: Tensor
    projections: dict[int, Tensor] = field(default_factory=dict)

    @property
    def present(self) -> Tensor:
        return self.projections[self.ladder.taken]

    @property
    def others(self) -> dict[int, Tensor]:
        """The projections of the widths nearby."""
        return {steps: weight for steps, weight in self.projections.items() if steps != self.ladder.taken}


@contextmanager
def uncut_again(model: PreTrainedModel) -> Iterator[None]:
    """Put every output projection back when the block ends."""
    adapter = adapter_of(model)
    linears = [output_projection(adapter, layer, part) for layer in adapter.layers(model) for part in PARTS]
    weights = [linear.weight.detach() for linear in linears]
    try:
        yield
    finally:
        for linear, weight in zip(linears, weights, strict=True):
            linear.weight.data = weight


@torch.no_grad()
def cut_with_candidates(
    model: PreTrainedModel,
    taken: Mapping[HalfName, int],
    windows: Tensor,
    batch_size: int,
    damping: float,
    nearby: bool = True,
) -> dict[HalfName, Candidates]:
    """Cut an uncut model by its output projections, and find the projections of widths nearby.

    Afterwards the model's output projections are those of the cut: wrap this in `uncut_again`.

    Args:
        model: the uncut model.
        taken: steps taken by each half that may be cut; the others are re-fitted with all their units.
        windows: calibration tokens, (windows, seq).
        batch_size: windows that go through a layer at once.
        damping: ridge of the re-fit as a share of the inputs' mean second moment.
        nearby: whether widths nearby are wanted as well.

    Returns:
        What was found for each half in `taken`.
    """
    adapter = adapter_of(model)
    found: dict[HalfName, Candidates] = {}
    for half in halves_towards_uncut(model, windows, batch_size):
        name = (half.index, half.part)
        layer = adapter.layers(model)[half.index]
        linear, shape = output_projection(adapter, layer, half.part), part_shape(adapter, layer, half.part)
        if name not in taken:
            everything = torch.arange(linear.in_features, device=linear.weight.device)
            linear.weight.data = half.gram.refit(linear.weight.detach(), everything, damping).to(linear.weight)
            continue
        ladder = Ladder.build(half.index, half.part, shape, [0.0] * (shape.units - 1))
        ladder.taken = taken[name]
        widths = {sum(ladder.units[:steps]): steps for steps in _steps(ladder, nearby)}
        removals = removals_towards(adapter, layer, half.part, half.gram, damping, weights_at=list(widths))
        priced = Ladder.build(half.index, half.part, shape, removals.costs.tolist())
        priced.taken = ladder.taken
        projections = {widths[count]: weight.to(linear.weight) for count, weight in removals.weights.items()}
        found[name] = Candidates(priced, removals.blocks, projections)
        linear.weight.data = found[name].present
    return found


def _steps(ladder: Ladder, nearby: bool) -> set[int]:
    """The numbers of steps whose projections are wanted."""
    move = max(1, len(ladder.units) // MOVES) if nearby else 0
    wanted = (ladder.taken - move, ladder.taken, ladder.taken + move)
    return {min(max(steps, 0), len(ladder.units)) for steps in wanted}
