"""What each unit of the uncut model costs: the error that is left after the best re-fit, in nats."""

from torch import Tensor
from transformers import PreTrainedModel

from secateur.calibration.moments import Moments
from secateur.calibration.sensitivity import Metrics, loss_metrics, stream_sensitivity
from secateur.calibration.streaming import LayerStream, Offload
from secateur.calibration.targets import as_the_norm_scales
from secateur.calibration.walks import NOTHING_KEPT, Walks
from secateur.console import track
from secateur.distributed import share
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Part
from secateur.models.streamed import release
from secateur.pruning.cutting import half_removals
from secateur.pruning.importance import LayerScores, PartScores, kept_scores, scores_so_far

SENSITIVITY_WINDOWS = 8
METRIC_WINDOWS = 8


def sensitivity_of_layers(model: PreTrainedModel, windows: Tensor, batch_size: int) -> list[dict[Part, float]]:
    """How much the uncut model's loss minds an error after each half, on a few of the windows."""
    return stream_sensitivity(model, spread(windows, SENSITIVITY_WINDOWS), max(1, batch_size // 4))


def metrics_of_layers(model: PreTrainedModel, windows: Tensor, batch_size: int) -> Metrics:
    """As `sensitivity_of_layers`, for each direction of the error: see `loss_metrics`."""
    return loss_metrics(model, spread(windows, METRIC_WINDOWS), max(1, batch_size // 4))


def obs_scores(
    model: PreTrainedModel,
    windows: Tensor,
    batch_size: int,
    damping: float,
    metrics: Metrics | None = None,
    offload: Offload = "none",
    walks: Walks = NOTHING_KEPT,
) -> list[LayerScores]:
    """Order units by the error left after the best re-fit, on the uncut model.

    The cost of a unit is the rise of the loss that its removal is expected to bring: the squared error that it leaves
    in the residual stream, times how much the loss minds an error there. So costs compare across layers.

    Args:
        windows: calibration tokens, (windows, seq).
        damping: ridge of the re-fit as a share of the inputs' mean second moment.
        metrics: how much the loss minds an error by its direction, `metrics_of_layers`; by its size alone if None.
        offload: where activations wait between layers.
        walks: what an earlier try has done.
    """
    adapter = adapter_of(model)
    sensitivity = None
    if metrics is None:
        sensitivity = walks.value(
            "sensitivity",
            lambda: sensitivity_of_layers(model, windows, batch_size),
            lambda value: _is_sensitivity(value, len(adapter.layers(model))),
        )
    stream = LayerStream.start(model, share(windows), batch_size, offload)
    first = walks.begin("scores", {"uncut": stream})
    scores = scores_so_far(walks, model, first)
    for index, layer in track(list(enumerate(adapter.layers(model)))[first:], "Scoring units"):
        layer_scores: LayerScores = {}
        for part in PARTS:
            half = adapter.half(layer, part)
            if half.is_absent:
                layer_scores[part] = PartScores.of_nothing()
                continue
            inputs = stream.stored(stream.inputs(index, half, half.output))
            moments = Moments.of(as_the_norm_scales(half, inputs))
            metric = metrics.of(index, part) if metrics else None
            removals = half_removals(half, moments, damping, metric=metric)
            costs = removals.costs * sensitivity[index][part] if sensitivity else removals.costs
            layer_scores[part] = PartScores(removals.blocks, costs)
            stream.add(half, inputs)
        stream.end_layer(index)
        release(model, layer)
        scores.append(layer_scores)
        walks.keep("scores", index, kept_scores(layer_scores))
        walks.done("scores", index, {"uncut": stream})
    return scores


def _is_sensitivity(value: object, layers: int) -> bool:
    """Whether a JSON value has a number for each half of so many layers."""
    return (
        isinstance(value, list)
        and len(value) == layers
        and all(isinstance(layer, dict) for layer in value)
        and all(isinstance(layer.get(part), float) for layer in value for part in PARTS)
    )


def spread(windows: Tensor, count: int) -> Tensor:
    """About `count` of the windows, evenly spaced."""
    return windows[:: max(1, len(windows) // count)][:count]
