"""Scores of units: which GQA groups and MLP channels of a layer matter least, and what each costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.calibration.gradients import only_gradients_of
from secateur.calibration.losses import chunked_loss
from secateur.calibration.streaming import LayerStream, Offload
from secateur.calibration.targets import as_the_norm_scales, error_factor, metric_of_outputs
from secateur.calibration.walks import NOTHING_KEPT, Walks
from secateur.console import track
from secateur.distributed import all_reduce_numbers, all_reduce_sum, broadcast, share, shared_batches
from secateur.errors import InputError
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Half, Part
from secateur.models.streamed import release, streamed
from secateur.pruning.units import PartShape, are_units, part_shapes, unit_sums


@dataclass
class PartScores:
    """The units of one half of one layer in the order in which they go.

    Attributes:
        order: unit indices, the least important first.
        costs: what each removal adds, in the order of `order`, never falling.
    """

    order: Tensor
    costs: Tensor

    @classmethod
    def from_unit_scores(cls, scores: Tensor) -> "PartScores":
        """Order independent scores, (units,)."""
        scores = broadcast(scores)
        order = scores.argsort(stable=True)
        return cls(order.cpu(), scores[order].double().cpu())

    @classmethod
    def of_nothing(cls) -> "PartScores":
        """Of a half that has no units."""
        return cls(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.float64))


LayerScores = dict[Part, PartScores]


@dataclass(frozen=True)
class UnitStatistics:
    """What a score of one's own is made of: a half of a layer, and what its units gave on the calibration text.

    The inputs of the output projection (`o_proj`, `down_proj`) belong to the units, one after another: to a GQA group
    those of its query heads, to an MLP channel one.

    Attributes:
        units: how many: GQA groups or MLP channels.
        weights: of the projections by name, (out_features, in_features) each; the output projection is the last.
        mean: of the output projection's inputs over all tokens, (in_features,).
        variance: the same, (in_features,).
        tokens: how many there were.
    """

    units: int
    weights: Mapping[str, Tensor]
    mean: Tensor
    variance: Tensor
    tokens: int

    @property
    def output(self) -> Tensor:
        """The weight of the output projection, (hidden_size, in_features)."""
        return list(self.weights.values())[-1]

    def by_unit(self, values: Tensor) -> Tensor:
        """Sums of a value for each input of the output projection, (in_features,), over each unit: (units,)."""
        return values.reshape(self.units, -1).sum(1)


# Takes a layer's index, the half and its statistics, and gives scores, (units,): the lowest leave first.
UnitScore = Callable[[int, Part, UnitStatistics], Tensor]
HalfScore = Callable[[int, Half, UnitStatistics], Tensor]


def kept_scores(scores: LayerScores) -> dict[str, Tensor]:
    """A layer's scores as tensors by name."""
    return {f"{part}.{name}": tensor for part, found in scores.items() for name, tensor in vars(found).items()}


SCORE_NAMES = [f"{part}.{name}" for part in PARTS for name in ("order", "costs")]


def scores_of(kept: Mapping[str, Tensor]) -> LayerScores:
    """The scores that `kept_scores` was given."""
    return {part: PartScores(kept[f"{part}.order"], kept[f"{part}.costs"]) for part in PARTS}


def scores_so_far(walks: Walks, model: PreTrainedModel, layers: int) -> list[LayerScores]:
    """The scores of the first layers, found by an earlier try. Raises `InputError` where a file is damaged."""
    shapes = part_shapes(model)[:layers]

    def fits(shape: Mapping[Part, PartShape], kept: Mapping[str, Tensor]) -> bool:
        return all(
            are_units(kept[f"{part}.order"], shape[part].units)
            and kept[f"{part}.costs"].shape == kept[f"{part}.order"].shape
            for part in PARTS
        )

    return [
        scores_of(walks.found("scores", index, SCORE_NAMES, partial(fits, shape))) for index, shape in enumerate(shapes)
    ]


def magnitude_scores(model: PreTrainedModel) -> list[LayerScores]:
    """Sum of squared weights over a unit's rows and columns."""

    def squares(half: Half) -> Tensor:
        return (
            torch.empty(0)
            if half.is_absent
            else unit_sums(half, {linear: linear.weight.detach().float().square() for linear in half.linears})
        )

    adapter = adapter_of(model)
    scores: list[LayerScores] = []
    for layer in adapter.layers(model):
        scores.append({part: PartScores.from_unit_scores(squares(adapter.half(layer, part))) for part in PARTS})
        release(model, layer)
    return scores


def activation_scores(
    model: PreTrainedModel,
    windows: Tensor,
    batch_size: int,
    offload: Offload = "none",
    walks: Walks = NOTHING_KEPT,
) -> list[LayerScores]:
    """Fluctuation of a unit's activation, weighted by its outgoing weights (FLAP, An et al. 2024).

    A unit with inputs x_j of the output projection scores Σ_j Var(x_j) ‖W_:j‖².

    Args:
        windows: calibration tokens, (windows, seq).
        offload: where activations wait between layers.
        walks: what an earlier try has done.
    """

    def fluctuation(_: int, half: Half, found: UnitStatistics) -> Tensor:
        metric = metric_of_outputs(half, None)
        weight = found.output.double()
        weight = weight if metric is None else metric.diagonal().double()[:, None] * weight
        return found.by_unit(error_factor(half, metric) * found.variance * weight.square().sum(0))

    return _streamed_scores(model, windows, batch_size, offload, walks, fluctuation)


def own_scores(
    model: PreTrainedModel,
    windows: Tensor,
    batch_size: int,
    offload: Offload,
    walks: Walks,
    score: UnitScore,
) -> list[LayerScores]:
    """Scores by a function of the user's own. Arguments as `activation_scores`.

    Raises:
        InputError: it does not give a finite score for each unit.
    """

    def checked(index: int, half: Half, found: UnitStatistics) -> Tensor:
        given = score(index, half.part, found)
        where = f"importance= gave for the {half.part} of layer {index}"
        try:
            scores = torch.as_tensor(given).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(given).__name__
            raise InputError(f"{where} a {kind}; give a tensor or a list with one score for each unit") from error
        if scores.is_complex() or scores.is_meta or scores.layout != torch.strided:
            raise InputError(f"{where} scores that are complex, sparse or on the device meta; give real numbers")
        scores = scores.double()
        if scores.shape != (half.units,):
            raise InputError(f"{where} a shape of {tuple(scores.shape)}; give one score for each unit, ({half.units},)")
        if not bool(scores.isfinite().all()):
            raise InputError(f"{where} scores that are not finite")
        return scores

    return _streamed_scores(model, windows, batch_size, offload, walks, checked)


def _streamed_scores(
    model: PreTrainedModel, windows: Tensor, batch_size: int, offload: Offload, walks: Walks, score: HalfScore
) -> list[LayerScores]:
    """Scores by what the inputs of each half's output projection are, layer by layer."""
    adapter = adapter_of(model)
    stream = LayerStream.start(model, share(windows), batch_size, offload)
    begin = walks.begin("scores", {"uncut": stream})
    scores = scores_so_far(walks, model, begin)
    for index, layer in track(list(enumerate(adapter.layers(model)))[begin:], "Scoring units"):
        layer_scores: LayerScores = {part: PartScores.of_nothing() for part in PARTS}
        for half in stream.halves(index):
            linear = half.output
            first = torch.zeros(linear.in_features, dtype=torch.float64, device=linear.weight.device)
            second, tokens = first.clone(), 0.0
            batches = stream.stored(stream.inputs(index, half, linear))
            for batch in as_the_norm_scales(half, batches):
                inputs = batch.double()  # (tokens, in_features)
                first += inputs.sum(0)
                second += inputs.square().sum(0)
                tokens += len(inputs)
            stream.add(half, batches)
            (tokens,) = all_reduce_numbers(tokens)
            mean = all_reduce_sum(first) / tokens
            variance = all_reduce_sum(second) / tokens - mean.square()
            weights = {name: each.weight.detach() for name, each in half.projections.items()}
            found = UnitStatistics(half.units, weights, mean, variance, int(tokens))
            layer_scores[half.part] = PartScores.from_unit_scores(score(index, half, found))
        stream.end_layer(index)
        release(model, layer)
        scores.append(layer_scores)
        walks.keep("scores", index, kept_scores(layer_scores))
        walks.done("scores", index, {"uncut": stream})
    return scores


def taylor_scores(model: PreTrainedModel, windows: Tensor, batch_size: int) -> list[LayerScores]:
    """First-order Taylor: Σ |w · ∂L/∂w| over a unit's rows and columns.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning"; for grouped structures of language
    models LLM-Pruner (Ma et al. 2023).

    Args:
        windows: calibration tokens, (windows, seq).
    """
    if streamed(model):
        raise InputError(
            "--importance taylor holds the gradients of all weights; for a streamed model use obs, activation or "
            "magnitude"
        )
    adapter = adapter_of(model)
    layers = adapter.layers(model)
    linears = [linear for layer in layers for linear in adapter.projections(layer).values()]
    with only_gradients_of(model, [linear.weight for linear in linears]):
        for batch in track(shared_batches(windows, batch_size), "Gradients"):
            tokens = batch.to(model.device)
            hidden = adapter.body(model)(tokens, use_cache=False).last_hidden_state
            chunked_loss(model, hidden, tokens).div(windows.numel()).backward()
        return [
            {part: PartScores.from_unit_scores(_products(adapter.half(layer, part))) for part in PARTS}
            for layer in layers
        ]


@torch.no_grad()
def _products(half: Half) -> Tensor:
    """Σ |w · ∂L/∂w| over each unit of half a layer, (units,)."""
    if half.is_absent:
        return torch.empty(0)
    return unit_sums(half, {linear: (linear.weight * _gradient(linear)).abs().float() for linear in half.linears})


def _gradient(linear: nn.Linear) -> Tensor:
    """The gradient of the weight, over the windows of all processes."""
    found = linear.weight.grad
    return all_reduce_sum(torch.zeros_like(linear.weight) if found is None else found)
