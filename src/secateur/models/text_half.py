"""The text half of a multimodal checkpoint: its settings, and which of the stored weights are its own.

Such a checkpoint is read as if the text model stood there alone. What it has for images and sound, and for guessing
several tokens at once, is left out.
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from secateur.errors import ModelError
from secateur.models.json_file import CONFIG, read_object
from secateur.models.weight_files import (
    BYTES,
    FORMATS,
    INDEX,
    WEIGHTS,
    StoredTensor,
    stored_tensors,
    weight_files,
    weight_map,
)

# Multimodal families, with the text family that they have where `text_config` names none.
TEXT_MODELS = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "mistral3": "mistral",
    "qwen3_5": "qwen3_5_text",
}
# The beginning of a stored name, and what the text model calls it: the layouts of Transformers before 4.52 and since.
NAMES = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.(model\.)?": "model.",
    r"^model\.language_model\.": "model.",
}
OTHER_PARTS = re.compile(
    r"(?:model\.)?(vision_tower|audio_tower|vision_embedder|embed_vision|embed_audio|multi_modal_projector|visual|mtp)\."
)
# What stands beside `text_config` and holds for the text too.
SHARED = (
    "tie_word_embeddings",
    "dtype",
    "torch_dtype",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "quantization_config",
    "compression_config",
    "configuration_files",
    "transformers_weights",
)
# Widths that a `text_config` leaves out where they are the family's own.
WIDTHS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
SKIPPED_MODULES = ("modules_to_not_convert", "ignored_layers")  # of `quantization_config`


def is_multimodal(content: Mapping[str, Any]) -> bool:
    """Whether this `config.json` is of a multimodal family whose text half is read."""
    model_type = content.get("model_type")
    return isinstance(model_type, str) and model_type in TEXT_MODELS


def text_settings(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A `config.json` as that of its text model; one of another family as it stands.

    Args:
        content: the parsed file.
        source: what messages call it.

    Raises:
        ModelError: it is of a multimodal family and has no settings of a text model.
    """
    if not is_multimodal(content):
        return dict(content)
    text = content.get("text_config")
    if not isinstance(text, dict):
        raise ModelError(f"{source} is wrong: it is of a {content['model_type']} and has no text_config")
    settings = {"model_type": TEXT_MODELS[content["model_type"]], **text}
    own = _defaults(settings["model_type"])
    widths = {name: own[name] for name in WIDTHS if own.get(name) is not None}
    tied = _defaults(content["model_type"])["tie_word_embeddings"]
    stated = {name: content[name] for name in SHARED if content.get(name) is not None}
    if isinstance(stated.get("quantization_config"), dict):
        stated["quantization_config"] = _of_text(stated["quantization_config"])
    return {**widths, "tie_word_embeddings": tied, **settings, **stated}


def model_tensors(directory: Path) -> dict[str, StoredTensor]:
    """What a directory stores of its text model, under the text model's own names, from the headers of its files.

    Raises:
        ModelError: as `weight_files.stored_tensors`; or a weight is there in two layouts.
    """
    if not holds_text_half(directory):
        return stored_tensors(directory)
    tensors = stored_tensors(directory, OTHER_PARTS)
    found: dict[str, StoredTensor] = {}
    stored_as: dict[str, str] = {}
    for name, tensor in tensors.items():
        if OTHER_PARTS.match(name):
            continue
        own = text_name(name)
        if own in found:
            raise ModelError(
                f"{directory} holds {own} twice, as {stored_as[own]} and as {name}; restore its files from their source"
            )
        found[own], stored_as[own] = tensor, name
    return found


def model_files(directory: Path) -> list[Path]:
    """The files that hold a directory's model, or its text half and perhaps the rest. Errors as `weight_files`."""
    return weight_files(directory, OTHER_PARTS if holds_text_half(directory) else None)


@contextmanager
def with_what_is_there(directory: Path) -> Iterator[Path]:
    """A directory as Transformers reads it: where files of a checkpoint's other parts are missing, one without them."""
    if not holds_text_half(directory) or (directory / WEIGHTS).is_file():
        yield directory
        return
    index = read_object(directory / INDEX)
    there = weight_map(directory, OTHER_PARTS)
    if there == index["weight_map"]:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="secateur-text-") as name:
        for file in directory.iterdir():
            if file.name != INDEX:
                (Path(name) / file.name).symlink_to(file.resolve())
        (Path(name) / INDEX).write_text(json.dumps({**index, "weight_map": there}), encoding="utf-8")
        yield Path(name)


def holds_text_half(directory: Path) -> bool:
    """Whether a directory's weights are those of a multimodal checkpoint whose text half is read."""
    return is_multimodal(read_object(directory / CONFIG))


def text_name(stored: str) -> str:
    """What the text model calls a weight, or a module, of the multimodal checkpoint."""
    for beginning, own in NAMES.items():
        name, changed = re.subn(beginning, own, stored)
        if changed:
            return name
    return stored


def left_out(directory: Path) -> dict[str, int]:
    """The parts of a multimodal checkpoint that are not its text model, with the parameters of each."""
    if not holds_text_half(directory):
        return {}
    parts: Counter[str] = Counter()
    for name, tensor in stored_tensors(directory, OTHER_PARTS).items():
        found = OTHER_PARTS.match(name)
        if found:
            parts[found[1]] += tensor.elements
    return dict(parts)


def stored_bytes(directory: Path) -> int:
    """Bytes of the files that hold a directory's model, less the parts that are left out. Errors as `weight_files`."""
    files = sum(file.stat().st_size for file in model_files(directory))
    if not holds_text_half(directory):
        return files
    others = (tensor for name, tensor in stored_tensors(directory, OTHER_PARTS).items() if OTHER_PARTS.match(name))
    return files - sum(tensor.elements * BYTES.get(FORMATS.get(tensor.format, ""), 1) for tensor in others)


def _of_text(quantisation: Mapping[str, Any]) -> dict[str, Any]:
    """`quantization_config` with the text model's own names of what is not quantised."""
    lists = {name: quantisation[name] for name in SKIPPED_MODULES if isinstance(quantisation.get(name), list)}
    renamed = {
        name: [text_name(f"{module}.").rstrip(".") if isinstance(module, str) else module for module in modules]
        for name, modules in lists.items()
    }
    return {**quantisation, **renamed}


def _defaults(model_type: object) -> dict[str, Any]:
    """The settings that a family has by itself; none of one that Transformers does not know."""
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return {}
    return {field.name: field.default for field in fields(CONFIG_MAPPING[model_type]) if field.default is not MISSING}
