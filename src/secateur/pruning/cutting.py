"""The cut itself: layers streamed one after another, each narrowed and re-fitted to what the uncut model gives."""

from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.calibration.moments import Gram, Moments
from secateur.calibration.sensitivity import Metrics
from secateur.calibration.streaming import LayerStream, Offload
from secateur.calibration.targets import (
    advance_with_outputs,
    error_factor,
    metric_of_outputs,
    towards,
)
from secateur.calibration.walks import NOTHING_KEPT, Walks
from secateur.console import track
from secateur.distributed import broadcast, share
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Half, Part, blocks_of
from secateur.models.streamed import map_settled, release, settle
from secateur.pruning.importance import LayerScores, PartScores
from secateur.pruning.obs import RemovalOrder, removal_order
from secateur.pruning.units import PartShape, are_units, keep_units, part_shapes
from secateur.rounding.config import Rounding
from secateur.rounding.halves import round_by_itself
from secateur.rounding.kept import note_kept_scales, scales_of

Removed = list[dict[Part, list[int]]]
HalfName = tuple[int, Part]
Counts = Mapping[HalfName, int]


@torch.no_grad()
def half_removals(
    half: Half,
    moments: Moments,
    damping: float,
    limit: int | None = None,
    weights_at: Sequence[int] = (),
    metric: Tensor | None = None,
) -> RemovalOrder:
    """The OBS order of the units of one half of a layer, and the squared error per token after each removal.

    Args:
        half: of the model as it is.
        moments: of the inputs of the half's output projection; with a target (`Gram`) the projection that fits it best
            is what units are removed from, without one the projection as it is.
        damping: ridge of the re-fit as a share of the inputs' mean second moment.
        limit: how many units to order; all unless given, where single ones can leave.
        weights_at: numbers of removals after which the re-fitted projection is wanted.
        metric: R, (out_features, out_features): an error δ in the residual stream counts ‖R δ‖², ‖δ‖² if None.
    """
    if limit is None:
        limit = half.units if half.names.divisible else 0
    weight = half.output.weight.detach()
    factor = moments.factor(damping)
    if isinstance(moments, Gram):
        weight = moments.fit(factor, weight, damping)
    scale, inverse = factor.scale, factor.into_inverse()
    of_outputs = metric_of_outputs(half, metric)
    removals = removal_order(inverse, weight / scale, half.block_size, limit, weights_at=weights_at, metric=of_outputs)
    return RemovalOrder(
        broadcast(removals.blocks.cpu()),
        broadcast(removals.errors.cpu() / moments.tokens * error_factor(half, of_outputs)),
        {count: broadcast((fitted * scale).float()) for count, fitted in removals.weights.items()},
    )


def cut_units(model: PreTrainedModel, scores: Sequence[LayerScores], counts: Counts) -> Removed:
    """Cut the model in place by the order of `scores`, without re-fitting. Returns the units removed."""
    adapter = adapter_of(model)
    removed = _nothing(model)
    for index, layer in enumerate(adapter.layers(model)):
        parts = [part for part in PARTS if counts.get((index, part))]
        for part in parts:
            chosen = scores[index][part].order[: counts[index, part]]
            _cut(adapter.half(layer, part), chosen)
            removed[index][part] = sorted(chosen.tolist())
        if parts:
            settle(model, index, layer)
    return removed


@torch.no_grad()
def cut_and_refit(
    model: PreTrainedModel,
    scores: Sequence[Mapping[Part, PartScores]] | None,
    counts: Counts,
    windows: Tensor,
    batch_size: int,
    damping: float,
    metrics: Metrics | None = None,
    offload: Offload = "none",
    walks: Walks = NOTHING_KEPT,
    rounding: Rounding | None = None,
) -> Removed:
    """Cut the model in place, re-fitting each output projection by least squares.

    Args:
        model: the model, cut in place.
        scores: the order in which units go; what it says nothing of is ordered by OBS on the cut stream, all if None.
        counts: how many units each half of each layer loses.
        windows: calibration tokens, (windows, seq).
        batch_size: windows that go through a layer at once.
        damping: ridge of the re-fit as a share of the inputs' mean second moment.
        metrics: of the errors by which units are ordered on the cut stream, as in `obs_scores`.
        offload: where activations wait between layers.
        walks: what an earlier try has done of a streamed model, whose layers it has written.
        rounding: of the weights left, before the stream goes on; None to leave them as they come out.

    Returns:
        For each layer and half the indices of the units removed.
    """
    adapter = adapter_of(model)
    removed = _nothing(model)
    first = min((layer for (layer, _), units in counts.items() if units), default=len(adapter.layers(model)))
    first = first if rounding is None else 0
    for index, kept in _kept_of_the_cut(walks, model, first, counts):
        for part in PARTS:
            _cut(adapter.half(adapter.layers(model)[index], part), kept[part].long())
            removed[index][part] = kept[part].tolist()
        map_settled(model, index, adapter.layers(model)[index])
        if rounding is not None:
            note_kept_scales(walks, "cut", model, index, rounding)
    leaving = _leaving_whole(model, counts)
    for cut in halves_towards_uncut(model, windows, batch_size, first, offload, walks, leaving, rounding):
        part = cut.half.part
        units = counts.get((cut.index, part), 0)
        known = scores[cut.index].get(part) if scores else None
        metric = metrics.of(cut.index, part) if metrics else None
        fitted: Tensor | None = None
        if units == cut.half.units:
            chosen = torch.arange(units)
            cut.columns = torch.empty(0, dtype=torch.long)
            _cut(cut.half, chosen)
        else:
            if known or not units:
                chosen = known.order[:units] if known else torch.empty(0, dtype=torch.long)
            else:
                removals = half_removals(cut.half, cut.gram, damping, units, [units], metric)
                chosen, fitted = removals.blocks, removals.weights[units]
            cut.columns = _cut_refitting(cut.half, chosen, cut.gram, damping, fitted)
        removed[cut.index][part] = sorted(chosen.tolist())
        gone = {str(name): torch.tensor(units, dtype=torch.long) for name, units in removed[cut.index].items()}
        if rounding is not None and cut.columns is not None and len(cut.columns):
            cut.round()
        walks.keep("cut", cut.index, {**gone, **scales_of(model, cut.index)})
    return removed


def _leaving_whole(model: PreTrainedModel, counts: Counts) -> set[HalfName]:
    """The halves that lose all their units."""
    shapes = part_shapes(model)
    return {(index, part) for (index, part), units in counts.items() if units and units == shapes[index][part].units}


def _kept_of_the_cut(
    walks: Walks, model: PreTrainedModel, first: int, counts: Counts
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The layers that an earlier try has cut, with the units removed of their halves."""
    for index, shape in list(enumerate(part_shapes(model)))[first : walks.reached("cut")]:
        if not any(half.units for half in shape.values()):
            continue

        def fits(kept: Mapping[str, Tensor], index: int = index, shape: Mapping[Part, PartShape] = shape) -> bool:
            return all(
                len(kept[part]) == counts.get((index, part), 0) and are_units(kept[part].long(), shape[part].units)
                for part in PARTS
            )

        yield index, walks.found("cut", index, PARTS, fits)


@dataclass
class HalfToCut:
    """Half a layer that is about to be cut.

    Attributes:
        index: the layer.
        half: which.
        measured: gives `gram`.
        columns: inputs of the output projection that are left after the cut; all while None.
        rounded: rounds what is left, and gives the inputs of the output projection then.
        inputs: those inputs, once it is rounded.
    """

    index: int
    half: Half
    measured: Callable[[], Gram]
    columns: Tensor | None = None
    rounded: Callable[[], MutableSequence[Tensor]] | None = None
    inputs: MutableSequence[Tensor] | None = None

    @cached_property
    def gram(self) -> Gram:
        """Moments of its output projection's inputs in the cut stream, towards what brings it to the uncut one."""
        return self.measured()

    def round(self) -> None:
        """Re-fit and round what the cut has left."""
        assert self.rounded is not None
        self.inputs = self.rounded()


@torch.no_grad()
def halves_towards_uncut(
    model: PreTrainedModel,
    windows: Tensor,
    batch_size: int,
    first: int = 0,
    offload: Offload = "none",
    walks: Walks = NOTHING_KEPT,
    leaving: Set[HalfName] = frozenset(),
    rounding: Rounding | None = None,
) -> Iterator[HalfToCut]:
    """The halves of an uncut model's layers in turn, each to be cut by the caller before it asks for the next one.

    Two streams of the calibration text go through the layers side by side: one as the uncut model gives it, one as
    the cut layers so far give it. Each half of a layer can be fitted so that the cut stream comes back to the uncut
    one, which also mends what the layers before it left. Before halves that will leave whole it is fitted to the uncut
    stream after those, so that it gives what it can of theirs as well.

    Args:
        model: the model; the caller changes the output projection of the half that it is given, and what feeds it.
        windows: calibration tokens, (windows, seq).
        batch_size: windows that go through a layer at once.
        first: the first layer that will be cut; those before it are passed over.
        offload: where activations wait between layers.
        walks: what an earlier try has done; its layers are passed over as well.
        leaving: the halves that will leave whole.
        rounding: how what is left can be rounded.
    """
    adapter = adapter_of(model)
    uncut = LayerStream.start(model, share(windows), batch_size, offload)
    cut = uncut.fork()
    streams = {"uncut": uncut, "cut": cut}
    begin = walks.begin("cut", streams)
    for index, layer in track(list(enumerate(adapter.layers(model)))[begin:], "Cutting and re-fitting"):
        for half in cut.halves(index):
            mixed = advance_with_outputs(uncut, index, half)
            if index < first:
                cut.follow(uncut)
                continue
            inputs = cut.stored(cut.inputs(index, half, half.output))

            def measured(index: int = index, half: Half = half, inputs: Any = inputs, mixed: Any = mixed) -> Gram:
                goals = _goals(uncut, index, half.part, leaving)
                return Gram.of_pairs(towards(half, inputs, cut.hidden, goals, mixed))

            def rounded(index: int = index, part: Part = half.part) -> MutableSequence[Tensor]:
                assert rounding is not None
                return round_by_itself(cut, index, cut.half(index, part), rounding)

            to_cut = HalfToCut(index, half, measured, rounded=rounded)
            yield to_cut
            if to_cut.inputs is not None:
                cut.add(cut.half(index, half.part), to_cut.inputs)
                continue
            columns = to_cut.columns
            if columns is not None and not len(columns):
                continue
            left = (batch if columns is None else batch[..., columns.to(batch.device)] for batch in inputs)
            cut.add(half, left)
        for stream in streams.values():
            stream.end_layer(index)
        if index < first:
            release(model, layer)
        else:
            settle(model, index, layer)
        walks.done("cut", index, streams)


def _goals(uncut: LayerStream, index: int, part: Part, leaving: Set[HalfName]) -> MutableSequence[Tensor]:
    """The uncut stream after the halves that leave whole right behind one, of whose end it stands."""
    places = [(layer, name) for layer in range(index, len(uncut.arguments)) for name in PARTS]
    behind = takewhile(leaving.__contains__, places[places.index((index, part)) + 1 :])
    ahead: LayerStream | None = None
    for layer, name in behind:
        ahead = ahead or uncut.fork()
        if name == PARTS[0]:
            ahead.end_layer(layer - 1)
        ahead.run(layer, ahead.half(layer, name))
    return uncut.hidden if ahead is None else ahead.hidden


def _cut_refitting(half: Half, chosen: Tensor, gram: Gram, damping: float, fitted: Tensor | None) -> Tensor:
    """Cut half a layer and re-fit its output projection. Returns the columns of it that are left.

    Args:
        fitted: the re-fitted projection with all its columns, where it is known already.
    """
    columns = blocks_of(_kept(half.units, chosen).to(half.output.weight.device), half.block_size)
    weight = gram.refit(half.output.weight.detach(), columns, damping) if fitted is None else fitted[:, columns]
    _cut(half, chosen)
    with torch.no_grad():
        half.output.weight.copy_(weight)
    return columns


def _cut(half: Half, chosen: Tensor) -> None:
    if len(chosen):
        keep_units(half, _kept(half.units, chosen))


def _kept(units: int, removed: Tensor) -> Tensor:
    keep = torch.ones(units, dtype=torch.bool)
    keep[removed.cpu()] = False
    return keep.nonzero().flatten()


def _nothing(model: PreTrainedModel) -> Removed:
    return [{"attention": [], "mlp": []} for _ in adapter_of(model).layers(model)]
