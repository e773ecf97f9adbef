"""Where a sparse model's zeros are, and whether they are all still there."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.models.adapters import adapter_of

# A dense matrix has a zero here and there by rounding.
SPARSE_FROM = 0.01

Masks = Mapping[str, Tensor]


@torch.no_grad()
def zero_masks(model: PreTrainedModel) -> dict[str, Tensor]:
    """For each projection with zeros in more than a hundredth of its weights, which weights are not zero.

    Args:
        model: of a supported family.

    Returns:
        Booleans of the weight's shape by the projection's name, `3.down_proj`; empty for a dense model.
    """
    masks = {}
    for index, layer in enumerate(adapter_of(model).layers(model)):
        for name, linear in adapter_of(model).projections(layer).items():
            if linear.weight.is_meta:  # held elsewhere by Accelerate
                continue
            keep = linear.weight != 0
            if int((~keep).sum()) > SPARSE_FROM * keep.numel():
                masks[f"{index}.{name}"] = keep
    return masks


def masked_projections(model: PreTrainedModel, masks: Masks) -> dict[str, torch.nn.Linear]:
    """The projections that masks are of, by the same names."""
    adapter = adapter_of(model)
    layers = adapter.layers(model)
    return {name: adapter.projections(layers[int(index)])[part] for name in masks for index, part in [name.split(".")]}


@torch.no_grad()
def lost_zeros(model: PreTrainedModel, masks: Masks) -> int:
    """How many weights are no longer zero that were where the masks were made."""
    linears = masked_projections(model, masks)
    return sum(
        int((linears[name].weight[~keep.to(linears[name].weight.device)] != 0).sum()) for name, keep in masks.items()
    )


@torch.no_grad()
def zero_again(model: PreTrainedModel, masks: Masks) -> None:
    """Set to zero what was when the masks were made."""
    for name, linear in masked_projections(model, masks).items():
        linear.weight.mul_(masks[name])


def share_of_zeros(model: PreTrainedModel) -> float:
    """Share of all projections' weights that are zero in sparse matrices; 0 for a dense model."""
    adapter = adapter_of(model)
    linears = [linear for layer in adapter.layers(model) for linear in adapter.projections(layer).values()]
    zeros = sum(int((~keep).sum()) for keep in zero_masks(model).values())
    return zeros / sum(linear.weight.numel() for linear in linears)


def sparsity_of(masks: Masks) -> float:
    """Share of zeros in the matrices that have them."""
    return 1 - sum(int(keep.sum()) for keep in masks.values()) / sum(keep.numel() for keep in masks.values())
