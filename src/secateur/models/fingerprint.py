"""Telling whether two models have the same weights without reading all of them."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.models.adapters import adapter_of

VALUES_PER_MATRIX = 8


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of all weights' names and shapes and of some of their values."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        flat = weight.detach().reshape(-1)
        step = max(1, len(flat) // 256)
        digest.update(flat[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def sampled_weights(model: PreTrainedModel) -> Tensor:
    """The shapes of all projections and a few weights of each, evenly spaced: float32, on the CPU.

    Unlike a digest it can be compared between number formats, by `same_weights`.

    Raises:
        ModelError: the family is not supported.
    """
    adapter = adapter_of(model)
    linears = [linear for layer in adapter.layers(model) for linear in adapter.projections(layer).values()]
    return sampled_values([*(linear.weight for linear in linears), *model.get_input_embeddings().parameters()])


def sampled_values(weights: Sequence[Tensor]) -> Tensor:
    """The shapes of some weights and a few values of each, as `sampled_weights`."""
    shapes = torch.tensor([size for weight in weights for size in weight.shape], dtype=torch.float32)
    return torch.cat([shapes, *(_spaced(weight) for weight in weights)])


def same_weights(one: Tensor, other: Tensor) -> bool:
    """Whether two results of `sampled_weights` differ by no more than rounding to bfloat16 or float16 makes."""
    # bfloat16 rounds by 2⁻⁹ of a value, and both may be rounded; float16 has no numbers near below 2⁻²⁴.
    return one.shape == other.shape and bool(torch.isclose(one, other, rtol=2**-7, atol=2**-22).all())


def _spaced(weight: Tensor) -> Tensor:
    flat = weight.detach().flatten()
    places = torch.linspace(0, flat.numel() - 1, min(VALUES_PER_MATRIX, flat.numel()), dtype=torch.float64).long()
    return flat[places.to(flat.device)].float().cpu()
