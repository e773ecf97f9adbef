"""Pretended devices: tensors live on the CPU, but carry the device that they would be on.

In `Devices` a tensor's `.to()`, `device=` and `.device` follow the pretended device, and an operation that mixes
devices raises `Mismatch`, as CUDA would. It can miss some: scalars and index tensors on the host pass, in-place
copies move by themselves, and what runs in the backward pass is outside.

    with Devices():
        spread(model, {"model.embed_tokens": "cuda:0", "model.layers.0": "cuda:0", "model.layers.1": "cuda:1", ...})
        prune(model, ...)
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakIdKeyDictionary

CPU = torch.device("cpu")
INDEXING = ("__getitem__", "__setitem__", "index_select", "gather", "searchsorted")
MAY_MIX = ("copy_", "set_", "backward")

_tags = WeakIdKeyDictionary()


class Mismatch(RuntimeError):
    """An operation met tensors of different pretended devices."""


def pretended(tensor: torch.Tensor) -> torch.device:
    """The device that a tensor pretends to be on."""
    return _tags.get(tensor, CPU)


def pretend(tensor: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """Say that a tensor is on a device."""
    _tags[tensor] = torch.device(device)
    return tensor


class Devices(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name == "__get__" and getattr(function, "__self__", None) is torch.Tensor.device:
            return pretended(args[0])
        if name in ("to", "cpu", "cuda") and args and isinstance(args[0], torch.Tensor):
            return _moved(name, args, kwargs)
        target = None
        if kwargs.get("device") is not None and not isinstance(kwargs["device"], torch.Tensor):
            target = torch.device(kwargs["device"])
            kwargs["device"] = "cpu"
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        found = {pretended(tensor) for tensor in tensors if tensor.dim() > 0 or pretended(tensor) != CPU}
        if len(found) > 1 and name not in MAY_MIX:
            indexed_from_host = name in INDEXING and all(pretended(tensor) == CPU for tensor in tensors[1:])
            if not indexed_from_host:
                raise Mismatch(f"{name}: tensors on {', '.join(sorted(map(str, found)))}")
        result = function(*args, **kwargs)
        where = target or (pretended(tensors[0]) if name == "copy_" else next(iter(found - {CPU}), None))
        if where is not None:
            for leaf in tree_flatten(result)[0]:
                if isinstance(leaf, torch.Tensor):
                    pretend(leaf, where)
        return result


def _moved(name, args, kwargs):
    tensor, rest, target = args[0], [], CPU if name == "cpu" else None
    for argument in args[1:]:
        if isinstance(argument, (str, torch.device)):
            target = torch.device(argument)
        elif isinstance(argument, torch.Tensor):
            target = pretended(argument)
            rest.append(argument.dtype)
        else:
            rest.append(argument)
    named = kwargs.pop("device", None)
    if named is not None:
        target = torch.device(named)
    before = pretended(tensor)
    target = before if target is None else target
    result = torch.Tensor.to(tensor, *rest, **kwargs) if rest or kwargs else tensor
    if target != before and result is tensor:
        result = tensor.clone()
    return pretend(result, target) if result is not tensor else tensor


def spread(model, device_map: dict[str, str]):
    """Place a model as accelerate's `dispatch_model` does for a map of GPUs: tags, and hooks that move inputs."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_execution_device_hook

    model.hf_device_map = device_map
    for name, device in device_map.items():
        module = model.get_submodule(name)
        for tensor in [*module.parameters(), *module.buffers()]:
            pretend(tensor, device)
        hook = AlignDevicesHook(
            execution_device=torch.device(device), io_same_device=False, skip_keys="past_key_values"
        )
        add_hook_to_module(module, hook)
        attach_execution_device_hook(module, torch.device(device), skip_keys="past_key_values")
    first = torch.device(next(iter(device_map.values())))
    hook = AlignDevicesHook(execution_device=first, io_same_device=True, skip_keys="past_key_values")
    add_hook_to_module(model, hook)
    return model
