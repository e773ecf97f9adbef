"""2:4 weights on a GPU's sparse tensor cores, as PyTorch's semi-structured tensors.

Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks".
"""

import torch
from torch import nn
from torch.sparse import to_sparse_semi_structured
from transformers import PreTrainedModel

from secateur.errors import InputError
from secateur.models import adapter_of

LEAST_CAPABILITY = (8, 0)


def require_sparse_cores(device: torch.device) -> None:
    """Raise `InputError` where a device has no tensor cores for 2:4 weights."""
    if device.type != "cuda":
        raise InputError("--semi-structured needs an NVIDIA GPU, and the models run on the CPU here; leave it out")
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        raise InputError(
            f"--semi-structured needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer; {device} has "
            f"{capability[0]}.{capability[1]}"
        )


def is_two_of_four(weight: torch.Tensor) -> bool:
    """Whether of every four neighbouring weights of a row at most two are not zero, (out_features, in_features)."""
    return weight.shape[1] % 4 == 0 and bool((weight.unflatten(1, (-1, 4)) != 0).sum(-1).le(2).all())


@torch.no_grad()
def use_semi_structured(model: PreTrainedModel) -> int:
    """Store every 2:4 projection as a semi-structured tensor, in place. The model can then no longer be saved.

    Returns:
        How many projections were 2:4.
    """
    adapter = adapter_of(model)
    linears = [linear for layer in adapter.layers(model) for linear in adapter.projections(layer).values()]
    chosen = [linear for linear in linears if is_two_of_four(linear.weight)]
    for linear in chosen:
        linear.weight = nn.Parameter(to_sparse_semi_structured(linear.weight.detach()), requires_grad=False)
    return len(chosen)
