"""Quantised checkpoints: which are read as ordinary weights, and which are refused by the name of their method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import FineGrainedFP8Config

from secateur.errors import ModelError
from secateur.models.json_file import one_line, read_object, shown
from secateur.models.packed_config import METHOD
from secateur.models.packed_files import REMEDY, bits_of, check_packed
from secateur.models.weight_files import DERIVED, FORMATS, StoredTensor

FIELDS = ("quantization_config", "compression_config")
# Transformers multiplies these out while it loads them: FP8 with a scale for each block or tensor.
READ = ("fp8", "mxfp8")
FP8 = ("F8_E4M3", "F8_E5M2")
SCALE = "_scale_inv"
# Files of older tools: their name, whose they are, and where the method stands in them.
BESIDE = (
    ("hf_quant_config.json", "ModelOpt", ("quantization", "quant_algo")),
    ("quantize_config.json", "GPTQ", ("quant_method",)),
)


def quantisation_method(content: Mapping[str, Any], source: str) -> str | None:
    """The method that a `config.json` names, None where it names none.

    Raises:
        ModelError: the field is no object, or names no method.
    """
    for field in FIELDS:
        settings = content.get(field)
        if settings is None or settings == {}:
            continue
        if not isinstance(settings, dict):
            raise ModelError(f"{source} is wrong: {field} is {shown(settings)}, not an object")
        method = settings.get("quant_method")
        if method is None and (settings.get("load_in_8bit") or settings.get("load_in_4bit")):
            method = "bitsandbytes"
        if not isinstance(method, str) or not method:
            raise ModelError(f"{source} is wrong: {field} has no quant_method")
        return method
    return None


def refuse_quantised(content: Mapping[str, Any], source: str) -> None:
    """Raise `ModelError` for a `config.json` that names a method whose weights are not read."""
    method = quantisation_method(content, source)
    if method == METHOD:
        bits_of(_settings(content), source)
    elif method is not None and method not in READ:
        raise ModelError(f"{source}: the checkpoint is quantised with {shown(method)}, which is not read; {REMEDY}")


def _settings(content: Mapping[str, Any]) -> Mapping[str, Any]:
    settings: Mapping[str, Any] = next(content[field] for field in FIELDS if content.get(field))
    return settings


def check_quantisation(directory: Path, content: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Check that weights which are no ordinary numbers are ones that can be read.

    Args:
        directory: of the model.
        content: its `config.json`.
        tensors: what its weight files hold.

    Raises:
        ModelError: the method is not read, or weights are quantised in a way that the config does not say.
    """
    method = quantisation_method(content, str(directory / "config.json"))
    packed = {
        name: tensor for name, tensor in tensors.items() if tensor.format not in FORMATS and not DERIVED.search(name)
    }
    if method == METHOD:
        check_packed(directory, _settings(content), tensors)
        return
    if method is not None and method not in READ:
        plain = "; its weights are ordinary ones: take the field out" if not packed else f"; {REMEDY}"
        raise ModelError(
            f"{directory} is quantised with {shown(method)} by its config.json (quantization_config), which is not read"
            f"{plain}"
        )
    if method is not None:
        _check_settings(directory, content["quantization_config"])
    if not packed:
        return
    name, tensor = next(iter(packed.items()))
    if method is None:
        raise ModelError(
            f"{directory} is quantised{_method_beside(directory)}: {name} is stored as {tensor.format}, and its "
            f"config.json does not say how to read it; {REMEDY}"
        )
    settings = content["quantization_config"]
    _check_scales(directory, settings, tensors)


def with_plain_weights(content: Mapping[str, Any]) -> dict[str, Any]:
    """A `config.json` that has Transformers multiply a quantised checkpoint's weights out, on a GPU too."""
    settings = content.get("quantization_config")
    if not settings or settings.get("quant_method") == METHOD:
        return {name: value for name, value in content.items() if name not in FIELDS}
    return {**content, "quantization_config": {**settings, "dequantize": True}}


def _check_settings(directory: Path, settings: Mapping[str, Any]) -> None:
    try:
        FineGrainedFP8Config.from_dict(dict(settings))
    except Exception as error:
        raise ModelError(f"{directory / 'config.json'} is wrong: quantization_config: {one_line(error)}") from error


def _check_scales(directory: Path, settings: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Each FP8 weight needs the scale that Transformers looks for, of blocks that fill the weight."""
    block = settings.get("weight_block_size", (128, 128))
    for name, tensor in tensors.items():
        if tensor.format in FORMATS or name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        if tensor.format not in FP8 or scale is None:
            raise ModelError(
                f"{directory} is quantised{_method_beside(directory)}: {name} is stored as {tensor.format} without a "
                f"{name.rpartition('.')[2]}{SCALE} beside it; {REMEDY}"
            )
        one = scale.elements == 1
        if not one and not _fills(tensor.shape, scale.shape, block):
            raise ModelError(
                f"{directory}: {name} of shape {tensor.shape} has scales of shape {scale.shape}, which do not fit "
                f"blocks of {shown(block)} (weight_block_size); {REMEDY}"
            )


def _fills(shape: tuple[int, ...], scales: tuple[int, ...], block: object) -> bool:
    """Whether whole blocks fill a weight. Transformers takes the block from the shapes, and would take a wrong one."""
    if not isinstance(block, (list, tuple)) or len(block) != 2 or len(shape) != 2 or len(scales) != 2:
        return False
    return all(size == count * width for size, count, width in zip(shape, scales, block, strict=True))


def _method_beside(directory: Path) -> str:
    """The method that a file of older tools names, as words for a message."""
    for file, tool, keys in BESIDE:
        if not (directory / file).is_file():
            continue
        found: Any = read_object(directory / file)
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return f" with {tool}{f' {shown(found)}' if isinstance(found, str) else ''} ({file})"
    return ""
