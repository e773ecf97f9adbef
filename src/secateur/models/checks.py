"""Looking at a checkpoint before it is loaded: is it a model, whole, safe and of a supported family?"""

import functools
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.models.adapters import adapter_for
from secateur.models.config_file import check_generation_config, read_config
from secateur.models.config_schema import DeclaredConfig
from secateur.models.json_file import CONFIG
from secateur.models.quantised import check_quantisation
from secateur.models.streamed import release
from secateur.models.text_half import left_out, model_tensors
from secateur.models.weight_files import WEIGHTS, StoredTensor, unused_shards

logger = logging.getLogger(__name__)

ADAPTER = "adapter_config.json"


def check_directory(directory: Path) -> None:
    """Check a model directory before any of it is loaded: its settings, and the headers of its weights.

    Raises:
        ModelError: it holds no model, a `config.json` that cannot be or is of a family that is not supported, only
            pickled weights, a damaged or missing safetensors file, quantised weights that are not read, or another
            number of layers than the config says.
    """
    if not (directory / CONFIG).is_file():
        raise ModelError(f"{directory} is not a model directory: it has no {CONFIG}{_adapter_hint(directory)}")
    content, declared = read_config(directory)
    tensors = model_tensors(directory)
    check_quantisation(directory, content, tensors)
    _check_layers(directory, declared, tensors)
    check_generation_config(directory)


def warn_of_what_is_left_out(directory: Path) -> None:
    """Log what lies in a model directory and is not used, or cannot be: once for each, however often it is loaded."""
    if (directory / ADAPTER).is_file():
        _warn_once(
            f"{directory} holds an adapter beside the model ({ADAPTER}), which is left out; pass --adapter {directory} "
            "to have it too"
        )
    others = left_out(directory)
    if others:
        _warn_once(
            f"{directory} holds more than its text model, which alone is used: {sum(others.values()):,} parameters of "
            f"{', '.join(others)} are left out"
        )
    unused = unused_shards(directory)
    if unused:
        _warn_once(
            f"{directory} holds {WEIGHTS} and an index of other files ({unused[0]}, …); the first is read, as "
            "Transformers does"
        )
    outside = read_config(directory)[1].outside()
    if outside:
        _warn_once(
            f"{directory / CONFIG}: {', '.join(outside)} is outside of the vocabulary, so no text can end with it"
        )


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def require_in_memory(model: PreTrainedModel) -> None:
    """Raise `ModelError` where a device map has left a weight to be fetched when it is needed."""
    name = next((name for name, weight in model.named_parameters() if weight.is_meta), None)
    if name is not None:
        raise ModelError(
            f"the device map has no room for {name} and keeps it outside of the model, where it cannot be read or "
            "changed; use --device cpu (sparsify: with --layer-by-layer), or more or larger GPUs"
        )


def require_finite(model: PreTrainedModel, what: str) -> None:
    """Raise `ModelError` where a weight is NaN or infinite.

    Args:
        model: the model.
        what: what the message calls it.
    """
    name = not_finite(model)
    if name is not None:
        raise ModelError(f"{what} holds NaN or infinite values in {name}; secateur diagnose lists what is wrong")


def not_finite(model: PreTrainedModel) -> str | None:
    """The name of the first weight that is NaN or infinite somewhere."""
    for name, weight in model.named_parameters():
        if not weight.is_meta and not bool(torch.isfinite(weight).all()):
            return name
        release(model, weight)
    return None


def _check_layers(directory: Path, declared: DeclaredConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """The layers that are stored must be those of the config: a layer too many would be dropped without a word."""
    layer = re.compile(rf"(?:^|\.){re.escape(adapter_for(declared.model_type).layers_name)}\.(\d+)\.")
    stored = {int(found[1]) for name in tensors if (found := layer.search(name)) and len(found[1]) < 10}
    count = max(stored, default=-1) + 1
    if declared.num_hidden_layers != count:
        raise ModelError(
            f"{directory / CONFIG} says num_hidden_layers {declared.num_hidden_layers}, and the weights beside it have "
            f"{count} layers; one of the two is of another model"
        )


def _adapter_hint(directory: Path) -> str:
    if (directory / ADAPTER).is_file():
        return "; it is a LoRA adapter: merge it first (secateur merge MODEL --adapter DIR), or pass it as --adapter"
    return ""
