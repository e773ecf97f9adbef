"""Putting a saved LoRA adapter on a model, without merging it."""

import json
from pathlib import Path

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def attach_adapter(model: PreTrainedModel, directory: str | Path) -> PeftModel:
    """Put the adapter in `directory` on `model`, whose projections are wrapped in place. Nothing is merged.

    Args:
        model: the model that the adapter was trained on.
        directory: what PEFT's `save_pretrained` wrote, with `adapter_model.safetensors`.

    Raises:
        ModelError: the directory holds no adapter, a damaged or a pickled one, or one of another model.
    """
    source = Path(directory).expanduser()
    config, weights = _read_config(source), _read_weights(source)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"the adapter {source} does not fit the model: {_first_line(error)}") from error
    _check_fit(source, weights, get_peft_model_state_dict(adapted, save_embedding_layers=False))
    set_peft_model_state_dict(adapted, weights)
    return adapted.eval()


def _read_config(source: Path) -> PeftConfig:
    file = source / CONFIG
    if not file.is_file():
        raise ModelError(f"{source} is not a LoRA adapter: it has no {CONFIG}")
    try:
        config = PeftConfig.from_pretrained(str(source))
    except (ValueError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise ModelError(f"{file} cannot be read: {_first_line(error)}") from error
    config.inference_mode = True
    return config


def _read_weights(source: Path) -> dict[str, Tensor]:
    file = source / WEIGHTS
    if not file.is_file():
        pickled = "; pickled weights (.bin) are not opened" if any(source.glob("*.bin")) else ""
        raise ModelError(f"{source} has no {WEIGHTS}{pickled}")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is truncated or corrupted ({_first_line(error)})") from error


def _check_fit(source: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise ModelError(
                f"the adapter {source} does not fit the model: {name} has shape {found.get(name, 'none')} in "
                f"the adapter and {wanted.get(name, 'none')} in the model; use the one it was trained on"
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
