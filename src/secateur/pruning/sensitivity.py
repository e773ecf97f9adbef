"""How much the loss minds an error in the residual stream after each half of each layer."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from secateur.console import track
from secateur.models.adapters import adapter_of
from secateur.models.gradients import only_gradients_of
from secateur.models.losses import chunked_loss
from secateur.models.processes import shared_batches, sum_over_processes
from secateur.models.streaming import layer_arguments
from secateur.pruning.units import PARTS, Part


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
    adapter = adapter_of(model)
    squares = torch.zeros(2 * len(adapter.layers(model)), dtype=torch.float64)
    with only_gradients_of(model, []):
        for batch in track(shared_batches(windows, batch_size), "Sensitivity of layers"):
            streams = residual_streams(model, batch.to(model.device))
            final = adapter.final_norm(model)(streams[-1])
            chunked_loss(model, final, batch.to(model.device)).backward()
            squares += torch.stack([gradient_of(stream).double().square().sum().cpu() for stream in streams])
    values = (sum_over_processes(squares) / (2 * windows.numel() * model.config.hidden_size)).tolist()
    return [dict(zip(PARTS, values[index : index + 2], strict=True)) for index in range(0, len(values), 2)]


def residual_streams(model: PreTrainedModel, tokens: Tensor, recompute: bool = True) -> list[Tensor]:
    """The residual stream after each half of each layer, (batch, seq, hidden_size), each ready to gather its gradient.

    Args:
        tokens: (batch, seq).
        recompute: run each half again in the backward pass, instead of keeping what it needs there.
    """
    adapter = adapter_of(model)
    hidden = model.get_input_embeddings()(tokens).requires_grad_(True)
    streams = []
    per_layer = layer_arguments(model, tokens[:1])
    for layer, extra in zip(adapter.layers(model), per_layer, strict=True):
        for half, arguments in ((adapter.attention_half, (extra,)), (adapter.mlp_half, ())):
            if recompute:
                hidden = checkpoint(half, layer, hidden, *arguments, use_reentrant=False)
            else:
                hidden = half(layer, hidden, *arguments)
            streams.append(hidden)
    for stream in streams:
        stream.retain_grad()
    return streams


def gradient_of(stream: Tensor) -> Tensor:
    """The gradient that a backward pass left at a residual stream."""
    if stream.grad is None:
        raise ValueError("the loss did not reach this part of the model")
    return stream.grad
