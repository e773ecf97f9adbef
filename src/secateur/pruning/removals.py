"""What a model loses without a half of a layer: measured, since the loss is not quadratic that far from the model."""

from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.calibration.losses import summed_divergence
from secateur.calibration.sensitivity import final_states
from secateur.calibration.streaming import LayerStream, Offload
from secateur.calibration.walks import NOTHING_KEPT, Walks
from secateur.console import track
from secateur.distributed import all_reduce_numbers, process_count, share
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Part
from secateur.models.streamed import release
from secateur.pruning.cutting import HalfName
from secateur.pruning.importance import LayerScores, PartScores

TOKENS = 2048  # of the calibration text: the divergences of single halves are known within a few percent
CHUNK_TOKENS = 64  # few enough that a chunk's logits stay in a processor's cache
LEAST = 1e-6  # nats: what a half costs at least


def with_measured_halves(
    model: PreTrainedModel,
    scores: list[LayerScores],
    windows: Tensor,
    batch_size: int,
    offload: Offload = "none",
    walks: Walks = NOTHING_KEPT,
) -> list[LayerScores]:
    """Scores of units by which each half costs as much, all its units together, as the model loses without it.

    Args:
        scores: costs of units in nats per token, as `obs_scores` estimates them.
        windows: calibration tokens, (windows, seq), of which some are measured on.
        offload: where activations wait between layers.
        walks: what an earlier try has done.
    """
    costs = walks.value(
        "halves",
        lambda: divergences_without(model, some(windows), batch_size, offload),
        lambda value: _is_costs(value, len(scores)),
    )
    return [
        {part: _ending_at(found, costs[index].get(part, 0.0)) for part, found in layer.items()}
        for index, layer in enumerate(scores)
    ]


def some(windows: Tensor, tokens: int = TOKENS) -> Tensor:
    """Windows at equal distances, of about so many tokens in all and at least one for each process, (windows, seq)."""
    count = min(len(windows), max(process_count(), tokens // windows.shape[1]))
    return windows[torch.linspace(0, len(windows) - 1, count).round().long()]


@torch.no_grad()
def divergences_without(
    model: PreTrainedModel, windows: Tensor, batch_size: int, offload: Offload = "none"
) -> list[dict[Part, float]]:
    """KL divergence from the model, in nats per token, when one half of one layer is left out, for each half there is.

    One walk: from its layer on, each model without a half has a stream of its own.

    Args:
        windows: tokens, (windows, seq).
        batch_size: windows that go through a layer at once.
        offload: where activations wait between layers; on the host unless on the disk.
    """
    adapter = adapter_of(model)
    layers = adapter.layers(model)
    whole = LayerStream.start(model, share(windows), batch_size, "cpu" if offload == "none" else offload)
    without: dict[HalfName, LayerStream] = {}
    for index, layer in track(list(enumerate(layers)), "Leaving halves out"):
        new = {}
        for part in (half.part for half in whole.halves(index)):
            new[index, part] = whole.fork()
            new[index, part].pass_through(index, without=part)
        for stream in (*without.values(), whole):
            stream.pass_through(index)
        without |= new
        release(model, layer)
    found: list[dict[Part, float]] = [{} for _ in layers]
    for (index, part), stream in without.items():
        found[index][part] = _divergence(model, whole, stream)
    return found


def _divergence(model: PreTrainedModel, whole: LayerStream, other: LayerStream) -> float:
    """Mean KL divergence of the next token's distribution, of streams behind the last layer."""
    total = tokens = 0.0
    for found, wanted in zip(other.hidden, whole.hidden, strict=True):
        total += summed_divergence(model, final_states(model, found), final_states(model, wanted), CHUNK_TOKENS)
        tokens += wanted.shape[0] * wanted.shape[1]
    total, tokens = all_reduce_numbers(total, tokens)
    return total / tokens


def _ending_at(scores: PartScores, cost: float) -> PartScores:
    """The same order, and costs that sum up to `cost`, in the same proportions."""
    total = float(scores.costs.sum())
    return replace(scores, costs=scores.costs * (max(cost, LEAST) / total)) if total > 0 else scores


def _is_costs(value: object, layers: int) -> bool:
    """Whether a JSON value has costs of the halves of so many layers."""
    return (
        isinstance(value, list)
        and len(value) == layers
        and all(isinstance(layer, dict) and layer.keys() <= set(PARTS) for layer in value)
        and all(isinstance(cost, float) for layer in value for cost in layer.values())
    )
