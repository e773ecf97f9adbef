"""Pretended devices: tensors live on the CPU, but carry the device that they would be on.

In `Devices` a tensor's `.to()`, `device=` and `.device` follow the pretended device, and an operation that mixes
devices raises `Mismatch`, as CUDA would. It can miss some: scalars and index tensors on the host pass, in-place
copies move by themselves, optimisers' operations on lists sort them by device.

    with Devices():
        spread(model, {"model.embed_tokens": "cuda:0", "model.layers.0": "cuda:0", "model.layers.1": "cuda:1", ...})
        prune(model, ...)
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

CPU = torch.device("cpu")
INDEXING = ("__getitem__", "__setitem__", "index_select", "gather", "searchsorted")
MAY_MIX = ("copy_", "set_", "backward", "_has_compatible_shallow_copy_type")
SORTS = ("_foreach", "_fused_adam")

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
    """The mode; in the backward pass, where gradients carry no device, what is on the host may be anywhere."""

    def __init__(self, backward=False):
        super().__init__()
        self.backward = backward

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name == "__get__" and getattr(function, "__self__", None) is torch.Tensor.device:
            return pretended(args[0])
        if name == "__set__" and getattr(function, "__self__", None) is torch.Tensor.data:
            pretend(args[0], pretended(args[1]))
            return function(*args)
        if name == "__deepcopy__":
            return pretend(function(*args), pretended(args[0]))
        if name in ("to", "cpu", "cuda") and args and isinstance(args[0], torch.Tensor):
            return _moved(name, args, kwargs)
        target = None
        if kwargs.get("device") is not None and not isinstance(kwargs["device"], torch.Tensor):
            target = torch.device(kwargs["device"])
            kwargs["device"] = "cpu"
        tensors = _tensors((args, kwargs))
        found = {pretended(tensor) for tensor in tensors if tensor.dim() > 0 or pretended(tensor) != CPU}
        if self.backward:
            found -= {CPU}
        if len(found) > 1 and name not in MAY_MIX and not name.startswith(SORTS):
            indexed_from_host = name in INDEXING and all(pretended(tensor) == CPU for tensor in tensors[1:])
            if not indexed_from_host:
                raise Mismatch(f"{name}: tensors on {', '.join(sorted(map(str, found)))}")
        result = function(*args, **kwargs)
        where = target or (pretended(tensors[0]) if name == "copy_" else next(iter(found - {CPU}), None))
        if where is not None:
            for leaf in _tensors(result):
                pretend(leaf, where)
        return result


def _tensors(value):
    """The tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for part in value for tensor in _tensors(part)]


def _moved(name, args, kwargs):
    tensor, dtype, target = args[0], kwargs.get("dtype"), CPU if name == "cpu" else None
    for argument in (*args[1:], kwargs.get("device")):
        if isinstance(argument, (str, torch.device)):
            target = torch.device(argument)
        elif isinstance(argument, torch.Tensor):
            target, dtype = pretended(argument), argument.dtype
        elif isinstance(argument, torch.dtype):
            dtype = argument
    before = pretended(tensor)
    target = before if target is None else target
    result = tensor if dtype is None else torch.Tensor.to(tensor, dtype)
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


def one_gpu(model):
    """The whole model on the first."""
    for tensor in [*model.parameters(), *model.buffers()]:
        pretend(tensor, "cuda:0")
    return model


def two_gpus(model):
    """The embedding and the first half of the layers on one, the rest, the norm and the head on the other."""
    layers = model.config.num_hidden_layers
    halves = {f"model.layers.{index}": f"cuda:{int(index >= layers // 2)}" for index in range(layers)}
    head = "cuda:0" if model.config.tie_word_embeddings else "cuda:1"
    ends = {"model.norm": "cuda:1", "model.rotary_emb": "cuda:0", "lm_head": head}
    return spread(model, {"model.embed_tokens": "cuda:0", **halves, **ends})


def places(model):
    """Where each weight is."""
    return {name: pretended(weight) for name, weight in model.named_parameters()}
