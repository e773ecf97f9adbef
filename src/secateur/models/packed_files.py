"""Reading weights that compressed-tensors has packed (`pack-quantized`), of secateur and of others, into ordinary ones.

Transformers multiplies them out itself on request, but by the first scheme of the config for all modules, also where
groups differ in size; here each weight's own shapes say what its group is.
"""

import copy
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.errors import ModelError
from secateur.models.json_file import CONFIG, shown
from secateur.models.packed_config import FORMAT
from secateur.models.rounded import PACKED, SCALE, SHAPE, note_rounded, unpacked
from secateur.models.text_half import text_name
from secateur.models.weight_files import FORMATS, StoredTensor

PARTS = (PACKED, SCALE, SHAPE)
NAME = 200  # characters of a module's name in a message
NOT_READ = {"weight_zero_point": "with zero points", "weight_g_idx": "with columns in an order of their own"}
Packed = Mapping[str, Mapping[str, StoredTensor]]  # by module, then by part
REMEDY = "use the original checkpoint, or dequantise it first and store it as ordinary weights"


def check_packed(directory: Path, settings: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Check before anything is read that a checkpoint of compressed-tensors is one that is read here.

    Args:
        directory: of the model.
        settings: its `quantization_config`.
        tensors: what its weight files hold.

    Raises:
        ModelError: it is of another format, or its tensors do not fit each other.
    """
    possible = bits_of(settings, str(directory / CONFIG))
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part in NOT_READ:
            raise ModelError(
                f"{directory} is quantised {NOT_READ[part]} ({shown(name, NAME)}), which is not read; {REMEDY}"
            )
        if tensor.format not in FORMATS and part not in PARTS:
            raise ModelError(
                f"{directory}: {shown(name, NAME)} is stored as {tensor.format}, which is not read; {REMEDY}"
            )
    for module, parts in packed_modules(tensors).items():
        if f"{module}.weight" in tensors:
            raise ModelError(
                f"{directory} holds both {shown(f'{module}.weight', NAME)} and {PACKED}, and only one of them can "
                "count; restore its files from their source"
            )
        missing = [part for part in PARTS if part not in parts]
        if missing:
            raise ModelError(
                f"{directory} lacks {shown(module, NAME)}.{missing[0]}; restore its files from their source"
            )
        _check_shapes(directory, module, parts, possible)


def packed_modules(tensors: Mapping[str, StoredTensor]) -> dict[str, dict[str, StoredTensor]]:
    """The tensors of packed weights, by module and part."""
    modules = {name.removesuffix(f".{PACKED}"): None for name in tensors if name.endswith(f".{PACKED}")}
    return {
        module: {part: tensors[f"{module}.{part}"] for part in PARTS if f"{module}.{part}" in tensors}
        for module in modules
    }


def parameters_in(tensors: Mapping[str, StoredTensor]) -> int:
    """How many weights a directory's files hold, packed ones as many as they are, and scales not counted."""
    packed = packed_modules(tensors)
    beside = {f"{module}.{part}" for module in packed for part in PARTS}
    count = sum(tensor.elements for name, tensor in tensors.items() if name not in beside)
    with ExitStack() as opened:
        files: dict[Path, Any] = {}
        for module, parts in packed.items():
            rows, columns = _read(opened, files, f"{module}.{SHAPE}", parts[SHAPE]).tolist()
            count += rows * columns
    return count


def require_plain_load(directory: Path, arguments: Mapping[str, Any]) -> None:
    """Raise `ModelError` where rounded weights are to be held in 8 bits of another kind."""
    if arguments.get("quantization_config") is not None:
        raise ModelError(f"{directory} is quantised already; leave out load_in_8bit")


def without_quantisation(config: PreTrainedConfig) -> PreTrainedConfig:
    """A config that has Transformers build ordinary modules."""
    plain = copy.deepcopy(config)
    for field in ("quantization_config", "compression_config"):
        vars(plain).pop(field, None)
    return plain


def without_packed(loading: Mapping[str, Any], packed: Packed) -> dict[str, Any]:
    """What Transformers says of loading, less what it could not know of packed weights."""
    weights = {f"{module}.weight" for module in packed}
    parts = {f"{module}.{part}" for module in packed for part in PARTS}
    unexpected = {name for name in loading["unexpected_keys"] if text_name(name) not in parts}
    missing = {name for name in loading["missing_keys"] if name not in weights}
    return {**loading, "missing_keys": missing, "unexpected_keys": unexpected}


@torch.no_grad()
def unpack_into(model: PreTrainedModel, directory: Path, packed: Packed) -> None:
    """Fill a model's linear modules with the weights that are stored packed, and note their grids on them.

    Raises:
        ModelError: a module is no linear one, or of another shape.
    """
    modules = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."
    with ExitStack() as opened:
        files: dict[Path, Any] = {}
        for name, parts in packed.items():
            linear = modules.get(name, modules.get(prefix + name))
            if not isinstance(linear, nn.Linear):
                raise ModelError(
                    f"{directory} holds {shown(name, NAME)} packed, which is no linear module of its architecture as "
                    f"it is built here; {REMEDY}"
                )
            stored = {part: _read(opened, files, f"{name}.{part}", tensor) for part, tensor in parts.items()}
            shape = tuple(linear.weight.shape)
            if tuple(stored[SHAPE].tolist()) != shape or parts[SCALE].shape[0] != shape[0]:
                raise ModelError(
                    f"{directory} holds {shown(name, NAME)} of shape {tuple(stored[SHAPE].tolist())} where its "
                    f"config.json asks for {shape}; one of the two is of another model"
                )
            if linear.weight.is_meta:
                raise ModelError(f"there is no room for {shown(name, NAME)} on the devices; use --device cpu")
            bits = _bits(parts, shape[1])
            if bits is None:
                raise ModelError(f"{directory} holds {shown(name, NAME)} in parts that do not fit each other; {REMEDY}")
            weight, rounded = unpacked(stored, bits, linear.weight.dtype)
            if not bool(torch.isfinite(weight).all()):
                raise ModelError(
                    f"{directory} holds NaN or infinite scales in {shown(name, NAME)}.{SCALE}; restore its files from "
                    "their source"
                )
            linear.weight.copy_(weight)
            note_rounded(linear, rounded)


def _read(opened: ExitStack, files: dict[Path, Any], name: str, tensor: StoredTensor) -> Tensor:
    if tensor.file not in files:
        handle = opened.enter_context(safe_open(tensor.file, framework="pt"))
        keys = list(handle.keys())
        files[tensor.file] = handle, {**{text_name(key): key for key in keys}, **{key: key for key in keys}}
    handle, stored_as = files[tensor.file]
    found: Tensor = handle.get_tensor(stored_as[name])
    return found


def bits_of(settings: Mapping[str, Any], source: str) -> set[int]:
    """The bits that a config's schemes have. Raises `ModelError` where one is of a kind that is not read.

    Args:
        settings: `quantization_config`.
        source: what messages call the file.
    """
    source = f"{source}: its quantization_config"
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or not groups or not all(isinstance(group, dict) for group in groups.values()):
        raise ModelError(f"{source} has no config_groups; {REMEDY}")
    bits = set()
    for scheme in groups.values():
        weights, format_ = scheme.get("weights"), scheme.get("format") or settings.get("format")
        if format_ != FORMAT:
            raise ModelError(f"{source} is of format {shown(format_)}, and only {FORMAT} is read; {REMEDY}")
        if scheme.get("input_activations") is not None or scheme.get("output_activations") is not None:
            raise ModelError(f"{source} rounds activations as well, which is not read; {REMEDY}")
        read = isinstance(weights, dict) and weights.get("type") == "int" and weights.get("symmetric") is True
        if not read or weights.get("num_bits") not in (4, 8) or weights.get("strategy") not in ("group", "channel"):
            raise ModelError(
                f"{source} is of another grid than symmetric integers of 4 or 8 bits by group or channel, which is "
                f"not read; {REMEDY}"
            )
        bits.add(int(weights["num_bits"]))
    return bits


def _check_shapes(directory: Path, module: str, parts: Mapping[str, StoredTensor], possible: set[int]) -> None:
    packed, scale, shape = (parts[part] for part in PARTS)
    fits = (
        packed.format == "I32"
        and scale.format in ("BF16", "F16", "F32")
        and shape.format == "I64"
        and shape.shape == (2,)
        and len(packed.shape) == 2
        and len(scale.shape) == 2
        and packed.shape[0] == scale.shape[0]
        and scale.shape[1] > 0
        and any(packed.shape[1] * 32 // bits % scale.shape[1] == 0 or scale.shape[1] == 1 for bits in possible)
    )
    if not fits:
        raise ModelError(
            f"{directory} holds {shown(module, NAME)} as {packed.format} {packed.shape} with scales {scale.format} "
            f"{scale.shape}, which do not fit each other; {REMEDY}"
        )


def _bits(parts: Mapping[str, StoredTensor], columns: int) -> int | None:
    """The bits of levels, by the width that so many columns are packed into."""
    if columns % parts[SCALE].shape[1]:
        return None
    return next((bits for bits in (4, 8) if math.ceil(columns * bits / 32) == parts[PACKED].shape[1]), None)
