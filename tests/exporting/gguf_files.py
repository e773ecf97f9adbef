"""GGUF files with other keys or tensors than they were written with."""

from collections.abc import Collection, Mapping
from pathlib import Path

import gguf
import numpy as np

KIND = gguf.GGUFValueType
KINDS = {bool: KIND.BOOL, int: KIND.UINT32, float: KIND.FLOAT32, str: KIND.STRING, list: KIND.ARRAY}


def edited(
    source: Path,
    keys: Mapping[str, object] | None = None,
    tensors: Mapping[str, np.ndarray | tuple[np.ndarray, gguf.GGMLQuantizationType]] | None = None,
    without: Collection[str] = (),
) -> Path:
    """A file beside `source` with these keys and tensors added or replaced, and without those named.

    A tensor is an array, or the bytes of one with its number format.
    """
    keys, tensors = keys or {}, tensors or {}
    target = source.with_name(f"edited-{source.name}")
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, keys.get("general.architecture", reader.fields["general.architecture"].contents()))
    skipped = {"general.architecture", *without, *keys}
    for name, field in reader.fields.items():
        if name not in skipped and not name.startswith("GGUF."):
            kind, *inner = field.types
            writer.add_key_value(name, field.contents(), kind, sub_type=inner[0] if inner else None)
    for name, value in keys.items():
        if name != "general.architecture":
            inner = KINDS[type(value[0])] if isinstance(value, list) else None
            writer.add_key_value(name, value, KINDS[type(value)], sub_type=inner)
    for tensor in reader.tensors:
        if tensor.name not in {*without, *tensors}:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, weights in tensors.items():
        data, kind = weights if isinstance(weights, tuple) else (weights, None)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
