"""Gradients of chosen parameters only, with nothing left behind."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def only_gradients_of(model: nn.Module, chosen: Sequence[Tensor]) -> Iterator[None]:
    """Within the block only `chosen` parameters gather gradients; afterwards everything is as it was."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    for tensor in chosen:
        tensor.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
