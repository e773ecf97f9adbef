"""A model whose weights are spread over the devices (FSDP2, PyTorch's `fully_shard`), each layer put together for use.

What all weights train is sharded as it is. Beside frozen weights the small trained ones, adapters and low-rank updates,
are whole on every device, as with DDP: their number format is another one, and FSDP2 takes one format per group.

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel".
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from secateur.errors import InputError
from secateur.models import adapter_of
from secateur.models.lora import underlying
from secateur.models.processes import process_count, sum_over_processes


def require_several(load_in_8bit: bool) -> None:
    """Raise `InputError` where a model cannot be sharded."""
    if process_count() == 1:
        raise InputError("fsdp spreads a model over several processes; start them with torchrun or accelerate launch")
    if load_in_8bit:
        raise InputError("fsdp cannot spread weights in 8 bits; leave out one of the two")


def plugin_arguments(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    """How Accelerate shards a model, as arguments of its `FullyShardedDataParallelPlugin`."""
    layers = adapter_of(underlying(model)).layers(underlying(model))
    return {
        "fsdp_version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_cls_names_to_wrap": [type(layers[0]).__name__],
        "ignored_modules": _beside_frozen_weights(model),
        "cpu_ram_efficient_loading": False,
        "reshard_after_forward": True,
        # As without sharding: weights and gradients keep their format, autocast chooses that of the arithmetic.
        "mixed_precision_policy": MixedPrecisionPolicy(),
    }


def _beside_frozen_weights(model: nn.Module) -> list[nn.Module]:
    """The modules of the weights that train where others are frozen."""
    own = {name: list(module.parameters(recurse=False)) for name, module in model.named_modules()}
    if all(parameter.requires_grad for parameters in own.values() for parameter in parameters):
        return []
    return [model.get_submodule(name) for name, found in own.items() if found and all(x.requires_grad for x in found)]


@contextmanager
def marked_as_sharding() -> Iterator[None]:
    """Take back what Accelerate notes in the environment, so that models loaded later are not sharded."""
    before = os.environ.get("ACCELERATE_USE_FSDP")
    try:
        yield
    finally:
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        if before is not None:
            os.environ["ACCELERATE_USE_FSDP"] = before


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from all processes' parts, which all have to ask for; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, spread as another of the same shape is."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)


def average_unsharded_gradients(model: nn.Module) -> None:
    """Average over processes the gradients that FSDP does not, those of weights that are whole everywhere."""
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    plain = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    if plain:
        mean = sum_over_processes(torch.cat([gradient.flatten() for gradient in plain])) / process_count()
        for gradient, part in zip(plain, mean.split([gradient.numel() for gradient in plain]), strict=True):
            gradient.copy_(part.view_as(gradient))


def reshard(model: nn.Module) -> None:
    """Let go of what a forward pass without a backward pass has put together."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def skeleton_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
    """A copy of a model, before it is sharded, with weights that have a shape but no values."""
    weights = {id(weight): _without_values(weight) for weight in model.parameters()}
    return copy.deepcopy(model, {**weights, **{id(buffer): buffer for buffer in model.buffers()}})


def _without_values(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)


def filled(
    skeleton: PreTrainedModel | PeftModel, model: PreTrainedModel | PeftModel, wanted: bool
) -> PreTrainedModel | PeftModel:
    """The skeleton with the values of a sharded model, on the CPU; where it is not wanted, as it was.

    All processes have to call this.
    """
    values = dict(model.named_parameters())
    found: dict[int, nn.Parameter] = {}
    for name, empty in skeleton.named_parameters():
        value = whole(values[name].detach())
        if wanted:
            found[id(empty)] = nn.Parameter(value.cpu(), requires_grad=empty.requires_grad)
    if not wanted:
        return skeleton
    full = copy.deepcopy(skeleton, {**found, **{id(buffer): buffer for buffer in skeleton.buffers()}})
    nn.Module.cpu(full)
    return full
