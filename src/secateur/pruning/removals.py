"""What a model loses without a half of a layer: measured, since the loss is not quadratic that far from the model."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.calibration.sensitivity import final_states
from secateur.calibration.streaming import LayerStream, Offload
from secateur.calibration.walks import NOTHING_KEPT, Walks
from secateur.console import track
from secateur.distributed import all_reduce_numbers, process_count, share
from secateur.models.adapters import adapter_of, head_of
from secateur.models.halves import PARTS, Part
from secateur.models.streamed import release
from secateur.pruning.cutting import HalfName
from secateur.pruning.importance import LayerScores, PartScores

TOKENS = 1024  # of the calibration text
EVERY = 4  # of so many tokens the distribution of one is compared: neighbours tell much the same
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
    costs = _divergences(model, whole, list(without.values()))
    found: list[dict[Part, float]] = [{} for _ in layers]
    for (index, part), cost in zip(without, costs, strict=True):
        found[index][part] = cost
    return found


def _divergences(model: PreTrainedModel, whole: LayerStream, others: list[LayerStream]) -> list[float]:
    """Mean KL divergence of the next token's distribution from `whole`'s, of each stream behind the last layer."""
    head = head_of(model)

    def log_probabilities(hidden: Tensor) -> Iterator[Tensor]:
        some_states = hidden[:, (hidden.shape[1] - 1) % EVERY :: EVERY]  # the last one among them
        states = final_states(model, some_states).to(head.weight.device).flatten(0, 1)
        return (head(chunk).float().log_softmax(-1) for chunk in states.split(CHUNK_TOKENS))

    totals, tokens = [0.0] * len(others), 0
    for number, hidden in enumerate(whole.hidden):
        wanted = list(log_probabilities(hidden))  # (tokens, vocabulary) each
        tokens += sum(map(len, wanted))
        for index, other in enumerate(others):
            for ours, theirs in zip(log_probabilities(other.hidden[number]), wanted, strict=True):
                totals[index] += functional.kl_div(ours, theirs, reduction="sum", log_target=True).item()
    *totals, count = all_reduce_numbers(*totals, float(tokens))
    return [total / count for total in totals]


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
