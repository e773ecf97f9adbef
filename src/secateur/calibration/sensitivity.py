"""How much the loss minds an error in the residual stream after each half of each layer."""

from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from secateur.calibration.gradients import only_gradients_of
from secateur.calibration.losses import chunked_loss
from secateur.calibration.streaming import DiskTensors, device_of, layer_arguments, move
from secateur.console import track
from secateur.distributed import all_reduce_sum, shared_batches
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Part
from secateur.models.streamed import release, streamed

LEAST_METRIC = 0.1  # of a metric: of the mean over all directions, so that none is free


@dataclass(frozen=True)
class Metrics:
    """R of each half of each layer, on the disk: together they are larger than most of the model.

    Attributes:
        tensors: (hidden_size, hidden_size) each, first layer 0's attention, then its MLP, then layer 1's.
    """

    tensors: MutableSequence[Tensor]

    def of(self, layer: int, part: Part) -> Tensor:
        """R after half a layer, (hidden_size, hidden_size), upper triangular."""
        return self.tensors[len(PARTS) * layer + PARTS.index(part)]


def stream_sensitivity(model: PreTrainedModel, windows: Tensor, batch_size: int) -> list[dict[Part, float]]:
    """Expected rise of the loss, in nats per token, for a unit of squared error in the residual stream.

    For an error δ in the stream h after a half, the empirical Fisher information gives a rise of about
    ½ E[(g·δ)²] with g = ∂L/∂h. With the direction of δ taken as random that is ½ E‖g‖² ‖δ‖² / hidden_size.

    Args:
        model: a model of a supported family, in evaluation mode.
        windows: tokens, (windows, seq); a few thousand tokens are enough.
        batch_size: windows that go through the model at once.

    Returns:
        For each layer the sensitivity after its attention and after its MLP.
    """
    squares = torch.zeros(2 * len(adapter_of(model).layers(model)), dtype=torch.float64)
    for gradients in _stream_gradients(model, windows, batch_size):
        squares += torch.stack([gradient.double().square().sum().cpu() for gradient in gradients])
    return _by_layer((all_reduce_sum(squares) / (2 * windows.numel() * model.config.hidden_size)).tolist())


def loss_metrics(model: PreTrainedModel, windows: Tensor, batch_size: int) -> Metrics:
    """As `stream_sensitivity`, for errors whose direction is known.

    Args:
        model: a model of a supported family, in evaluation mode.
        windows: tokens, (windows, seq); several times hidden_size in all.
        batch_size: windows that go through the model at once.

    Returns:
        For each layer, after its attention and after its MLP, R with ½ E[(g·δ)²] ≈ E‖R δ‖²: (hidden_size,
        hidden_size), upper triangular. Of each direction it holds a tenth of the mean over all at least.
    """
    size = model.config.hidden_size
    count = len(PARTS) * len(adapter_of(model).layers(model))
    moments = DiskTensors(torch.zeros(size, size) for _ in range(count))
    for gradients in _stream_gradients(model, windows, batch_size):
        for position, gradient in enumerate(gradients):
            flat = gradient.float().flatten(0, -2)  # (tokens, hidden_size)
            moments[position] = moments[position].to(flat.device).addmm_(flat.T, flat)
    place = model.device
    for position in range(count):
        moments[position] = _root(all_reduce_sum(moments[position].to(place)) / (2 * windows.numel()))
    return Metrics(moments)


def _root(moment: Tensor) -> Tensor:
    """R with RᵀR = (1 - a) M + a mean(diag M) I, for the small a that bounds it below."""
    moment = moment.double()
    mean = moment.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    bounded = (1 - LEAST_METRIC) * moment
    bounded.diagonal().add_(LEAST_METRIC * mean)
    return torch.linalg.cholesky(bounded, upper=True).float()


def _by_layer(values: Sequence[Any]) -> list[dict[Part, Any]]:
    return [dict(zip(PARTS, values[index : index + 2], strict=True)) for index in range(0, len(values), 2)]


def _stream_gradients(model: PreTrainedModel, windows: Tensor, batch_size: int) -> Iterator[list[Tensor]]:
    """Gradients of the summed loss after each half of each layer, (batch, seq, hidden_size), batch by batch."""
    with only_gradients_of(model, []):
        for batch in track(shared_batches(windows, batch_size), "Sensitivity of layers"):
            streams, last = residual_streams(model, batch.to(model.device))
            final = final_states(model, last)
            chunked_loss(model, final, batch.to(model.device)).backward()
            yield [gradient_of(stream) for stream in streams]


def residual_streams(
    model: PreTrainedModel, tokens: Tensor, recompute: bool = True, watched: bool = True
) -> tuple[list[Tensor], Tensor]:
    """The residual stream after each half of each layer, and behind the last layer, (batch, seq, hidden_size).

    Args:
        tokens: (batch, seq).
        recompute: run each half again in the backward pass, instead of keeping what it needs there.
        watched: have each gather its gradient.
    """
    adapter = adapter_of(model)
    hidden = adapter.embed(model, tokens).requires_grad_(True)
    streams = []
    per_layer = layer_arguments(model, tokens[:1])
    for index, (layer, extra) in enumerate(zip(adapter.layers(model), per_layer, strict=True)):
        place = device_of(layer, [hidden])
        if adapter.of_tokens is not None:
            extra = {**extra, **adapter.of_tokens(adapter.body(model), tokens, index)}
        hidden, extra = hidden.to(place), move(extra, place)
        if streamed(model):  # the backward pass is through with a layer once it reaches what went into it
            hidden.register_hook(lambda _, layer=layer: release(model, layer))
        given = hidden
        for part in PARTS:
            half = adapter.half(layer, part)
            step = (hidden, extra, given if half.is_parallel else None)
            hidden = checkpoint(half.run, *step, use_reentrant=False) if recompute else half.run(*step)
            streams.append(hidden)
        if adapter.end is not None:
            hidden = adapter.end(layer, hidden, extra)
        release(model, layer)
    for stream in streams if watched else ():
        stream.retain_grad()
    return streams, hidden


def final_states(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The last residual stream through the final norm, where that is: (batch, seq, hidden_size)."""
    norm = adapter_of(model).final_norm(model)
    return norm(hidden.to(next(norm.parameters()).device))


def gradient_of(stream: Tensor) -> Tensor:
    """The gradient that a backward pass left at a residual stream."""
    if stream.grad is None:
        raise ValueError("the loss did not reach this part of the model")
    return stream.grad
