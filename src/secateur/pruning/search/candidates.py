"""A cut made of output projections: a half whose projection has zero columns for some units is the half without them.

So the model keeps its shape while cuts are tried, and a half is moved to another width by handing it another
projection.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.calibration.sensitivity import Metrics
from secateur.calibration.streaming import DiskTensors
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS
from secateur.pruning.cutting import HalfName, half_removals, halves_towards_uncut
from secateur.pruning.ladders import Ladder

MOVES = 16  # a half is tried narrower by a sixteenth of its steps


@dataclass
class Candidates:
    """Half a layer cut to its present width, which the model has, and to a narrower one, each re-fitted.

    Both projections are (out_features, in_features), with zero columns for the units that are gone.

    Attributes:
        units: those that are gone.
        narrower: reads the output projection at the narrower width from the disk; None where nothing is left to go.
    """

    units: Tensor
    narrower: Callable[[], Tensor] | None


@contextmanager
def uncut_again(model: PreTrainedModel) -> Iterator[None]:
    """Put every output projection back when the block ends. Meanwhile they lie on the disk."""
    adapter = adapter_of(model)
    halves = [adapter.half(layer, part) for layer in adapter.layers(model) for part in PARTS]
    linears = [half.output for half in halves if not half.is_absent]
    weights = DiskTensors(linear.weight.detach() for linear in linears)
    try:
        yield
    finally:
        for linear, weight in zip(linears, weights, strict=True):
            linear.weight.data.copy_(weight)


@torch.no_grad()
def cut_with_candidates(
    model: PreTrainedModel,
    ladders: Mapping[HalfName, Ladder],
    windows: Tensor,
    batch_size: int,
    damping: float,
    metrics: Metrics | None = None,
    narrower: bool = True,
) -> dict[HalfName, Candidates]:
    """Cut an uncut model by its output projections, and find the projection that each half would have if narrower.

    Afterwards the model's output projections are those of the cut: wrap this in `uncut_again`.

    Args:
        model: the uncut model.
        ladders: of the halves that may be cut, with the steps taken; the others are re-fitted with all their units.
        windows: calibration tokens, (windows, seq).
        batch_size: windows that go through a layer at once.
        damping: ridge of the re-fit as a share of the inputs' mean second moment.
        metrics: how much the loss minds an error by its direction, `metrics_of_layers`; by its size alone if None.
        narrower: whether a narrower width is wanted as well.

    Returns:
        What was found for each half in `ladders`.
    """
    found: dict[HalfName, Candidates] = {}
    stored = DiskTensors()
    leaving = {name for name, ladder in ladders.items() if ladder.removed_units() == ladder.shape.units}
    for cut in halves_towards_uncut(model, windows, batch_size, leaving=leaving):
        name = (cut.index, cut.half.part)
        linear = cut.half.output
        if name not in ladders:
            everything = torch.arange(linear.in_features, device=linear.weight.device)
            linear.weight.data.copy_(cut.gram.refit(linear.weight.detach(), everything, damping))
            continue
        ladder = ladders[name]
        taken = ladder.removed_units()
        more = sum(ladder.units[: narrower_steps(ladder)]) if narrower else taken
        metric = metrics.of(*name) if metrics else None
        removals = half_removals(cut.half, cut.gram, damping, more, [taken, more], metric)
        linear.weight.data.copy_(removals.weights[taken])
        found[name] = Candidates(removals.blocks[:taken], None)
        if more > taken:
            stored.append(removals.weights[more].to(linear.weight))
            found[name].narrower = partial(stored.__getitem__, len(stored) - 1)
    return found


@contextmanager
def narrowed(model: PreTrainedModel, name: HalfName, half: Candidates) -> Iterator[None]:
    """Have a half at its narrower width while the block runs."""
    if half.narrower is None:
        raise ValueError("the half has nothing left to lose")
    adapter = adapter_of(model)
    linear = adapter.half(adapter.layers(model)[name[0]], name[1]).output
    present = linear.weight.detach().clone()
    linear.weight.data.copy_(half.narrower())
    try:
        yield
    finally:
        linear.weight.data.copy_(present)


def narrower_steps(ladder: Ladder) -> int:
    """How many steps are taken at the narrower width."""
    return min(ladder.taken + max(1, len(ladder.units) // MOVES), len(ladder.units))
