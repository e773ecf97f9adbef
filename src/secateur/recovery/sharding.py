"""A model whose weights are spread over the devices (FSDP2, PyTorch's `fully_shard`), each layer put together for use.

What all weights train is sharded as it is. Beside frozen weights the small trained ones, adapters and low-rank updates,
are whole on every device, as with DDP: their number format is another one, and FSDP2 takes one format per group.

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel".
"""

import copy
import functools
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from secateur.distributed import all_reduce_together, process_count
from secateur.errors import InputError


def require_shardable(model: PreTrainedModel, load_in_8bit: bool) -> None:
    """Raise `InputError` where a model cannot be spread over processes."""
    if process_count() == 1:
        raise InputError("fsdp spreads a model over several processes; start them with torchrun or accelerate launch")
    if load_in_8bit:
        raise InputError("fsdp cannot spread weights in 8 bits; leave out one of the two")
    if model.dtype == torch.float16:
        raise InputError("fsdp does not train in float16; use dtype bfloat16 or float32")


def shard(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Spread a model over the processes, in place: each layer's weights in a group, and all others in one.

    Args:
        model: whose `forward` the training calls.
        layers: modules inside it that are put together one after another.
    """
    mesh = init_device_mesh(next(model.parameters()).device.type, (process_count(),))
    weights = list(model.parameters())
    frozen = any(not weight.requires_grad for weight in weights)
    left_whole = {weight for weight in weights if weight.requires_grad} if frozen else set()
    # As without sharding, weights and gradients keep their format; autocast chooses that of the arithmetic.
    settings: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(), "ignored_params": left_whole}
    for layer in layers:
        fully_shard(layer, **settings)
    fully_shard(model, **settings)


def take_as_it_is(accelerator: Accelerator) -> None:
    """Let Accelerate leave a model alone that is sharded already: it puts no DDP around it.

    Its own FSDP does the same as `shard`, on GPUs only.
    """
    changed: Any = accelerator
    changed.prepare_model = functools.partial(accelerator.prepare_model, evaluation_mode=True)
    clip = accelerator.clip_grad_norm_
    changed.clip_grad_norm_ = lambda *arguments, **options: whole(clip(*arguments, **options))


def reduce_gradients(model: nn.Module, now: bool) -> None:
    """Whether the next backward pass gives the processes their parts of the gradient, or only gathers it up."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


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
    all_reduce_together(plain)
    for gradient in plain:
        gradient /= process_count()


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
