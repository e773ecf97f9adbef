"""A loss of the user's own in the place of cross entropy."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from secateur.errors import InputError

# Takes what the model gives (`logits`, (batch, seq, vocabulary)) and the batch (`input_ids`, `labels` with -100 where
# there is no loss, `attention_mask` or None; (batch, seq) each), and gives the mean over the batch's scored tokens.
OwnLoss = Callable[[Any, Mapping[str, Tensor | None]], Tensor]


def name_of(loss: OwnLoss) -> str:
    """What records call it."""
    return getattr(loss, "__qualname__", type(loss).__qualname__)


def require_callable(loss: Any) -> None:
    """Raise `InputError` where a loss of the user's own is no function."""
    if loss is not None and not callable(loss):
        raise InputError(f"loss= is a {type(loss).__name__}; give a function of what the model gives and the batch")


def mean_of(loss: OwnLoss, outputs: Any, batch: Mapping[str, Tensor | None]) -> Tensor:
    """What the loss gives. Raises `InputError` where that is no single number with a gradient."""
    value = loss(outputs, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"loss= gave {shape}; it gives one number, the mean over the batch's tokens, as a tensor")
    if not value.is_floating_point() or value.is_meta:
        kind = str(value.dtype).removeprefix("torch.")
        raise InputError(f"loss= gave a number of {kind} on {value.device.type}; give a floating-point one in memory")
    if not value.requires_grad:
        raise InputError("loss= gave a number without a gradient; make it of outputs.logits, without detach()")
    return value.reshape(())
