"""Training that keeps a sparse model's zeros: masks that are part of the weights while they are trained."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from secateur.errors import TrainingError
from secateur.models import adapter_of
from secateur.models.masks import Masks, lost_zeros, masked_projections


class MaskedWeight(nn.Module):
    """mask · W: no gradient, optimizer state or weight decay reaches a weight that is zero.

    Args:
        mask: False where the weight stays zero, (out_features, in_features).
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class MaskedUpdate(nn.Module):
    """W + mask · (α/r) B·A, with W frozen: the low-rank update can be added to the weights and changes no zero.

    Source: MaskLoRA in Zimmer et al. 2023, "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs".

    Args:
        mask: False where the weight stays zero, (out_features, in_features).
        r: rank.
        alpha: scales the update by α/r.
    """

    def __init__(self, mask: Tensor, r: int, alpha: float) -> None:
        super().__init__()
        out_features, in_features = mask.shape
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.scale = alpha / r
        self.down = nn.Parameter(torch.empty(r, in_features, device=mask.device))  # A
        self.up = nn.Parameter(torch.zeros(out_features, r, device=mask.device))  # B
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        update = (self.up @ self.down) * self.scale  # (out_features, in_features)
        return weight + (update * self.mask).to(weight.dtype)


def add_masks(model: PreTrainedModel, masks: Masks) -> None:
    """Hold the zeros of a model while all its weights train."""
    for name, linear in masked_projections(model, masks).items():
        parametrize.register_parametrization(linear, "weight", MaskedWeight(masks[name]))


def add_masked_updates(model: PreTrainedModel, masks: Masks, names: list[str], r: int, alpha: float) -> None:
    """Freeze a model but for masked low-rank updates of its projections.

    Args:
        model: changed in place.
        masks: of its sparse projections; a dense one gets an update without zeros.
        names: of the projections that get one, q_proj and so on.
        r: rank.
        alpha: scales the update by α/r.
    """
    model.requires_grad_(False)
    adapter = adapter_of(model)
    for index, layer in enumerate(adapter.layers(model)):
        for name, linear in adapter.projections(layer).items():
            if name in names:
                mask = masks.get(f"{index}.{name}", torch.ones_like(linear.weight, dtype=torch.bool))
                parametrize.register_parametrization(linear, "weight", MaskedUpdate(mask, r, alpha))


@torch.no_grad()
def bake_in(model: PreTrainedModel) -> None:
    """Make what masks and updates give the weights themselves, and take them away."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            weight = module.weight.detach().clone()
            mask: Tensor = cast(Any, module.parametrizations)["weight"][0].mask
            # A weight that training has brought to zero stays one of those that are not.
            weight.masked_fill_(mask & (weight == 0), torch.finfo(weight.dtype).tiny)
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            module.weight.copy_(weight)


def require_zeros(model: PreTrainedModel, masks: Masks) -> None:
    """Raise `TrainingError` where a weight is no longer zero that was before training."""
    lost = lost_zeros(model, masks)
    if lost:
        raise TrainingError(
            f"training has filled {lost:,} of the model's zeros, a fault of secateur; please report the command "
            "that led to it"
        )
