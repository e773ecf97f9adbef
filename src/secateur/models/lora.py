"""LoRA adapters on a model: wrapping its projections, and putting a saved adapter beside them."""

import json
import warnings
from pathlib import Path
from typing import cast

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.errors import ModelError

ADAPTER = "default"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def underlying(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The Transformers model, with the adapter's layers in place where PEFT wraps it."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def wrap(model: PreTrainedModel, settings: PeftConfig) -> PeftModel:
    """PEFT's model around this one, without its warnings. Raises `ValueError` where the settings do not fit."""
    with warnings.catch_warnings():
        # PEFT asks Transformers for attributes under names that 5.23 has given up.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path`")
        adapted = get_peft_model(model, settings, adapter_name=ADAPTER, autocast_adapter_dtype=True)
    assert isinstance(adapted, PeftModel)
    return adapted


def attach_adapter(model: PreTrainedModel, adapter: str | Path) -> PeftModel:
    """Put a saved adapter beside the projections of its model, in place. Nothing is merged.

    Args:
        model: the model that the adapter was trained on.
        adapter: a directory with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ModelError: the directory holds no adapter, a damaged or pickled one, or one of another model, which is then
            left as it was.
    """
    directory = Path(adapter).expanduser()
    config, weights = _read_config(directory), _read_weights(directory)
    _check_fit(model, weights, directory)
    try:
        adapted = wrap(model, config)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"the adapter {directory} does not fit the model: {_first_line(error)}") from error
    absent = set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) - set(weights)
    if absent:
        adapted.unload()
        raise ModelError(
            f"the adapter {directory} is of another model: it lacks {min(absent)}; use the model it was trained on"
        )
    set_peft_model_state_dict(adapted, weights)
    return adapted.eval()


def merged(adapted: PeftModel) -> PreTrainedModel:
    return cast(PreTrainedModel, adapted.merge_and_unload())


def _read_config(directory: Path) -> PeftConfig:
    file = directory / CONFIG
    if not file.is_file():
        raise ModelError(f"{directory} is not a LoRA adapter: it has no {CONFIG}")
    try:
        config = PeftConfig.from_pretrained(str(directory))
    except (ValueError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise ModelError(f"{file} cannot be read: {_first_line(error)}") from error
    config.inference_mode = True
    return config


def _read_weights(directory: Path) -> dict[str, Tensor]:
    file = directory / WEIGHTS
    if not file.is_file():
        pickled = "; pickled weights (*.bin) are not opened" if any(directory.glob("*.bin")) else ""
        raise ModelError(f"{directory} is not a LoRA adapter: it has no {WEIGHTS}{pickled}")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is truncated or corrupted: {_first_line(error)}") from error


def _check_fit(model: PreTrainedModel, weights: dict[str, Tensor], directory: Path) -> None:
    """Each factor must stand beside a projection with as many inputs (A) or outputs (B)."""
    modules = dict(model.named_modules())
    for name, weight in weights.items():
        path, _, factor = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        module = modules.get(path)
        if not isinstance(module, nn.Linear):
            raise ModelError(
                f"the adapter {directory} is of another model: this one has no projection {path}; use the model it was "
                "trained on"
            )
        width = {"lora_A": module.in_features, "lora_B": module.out_features}.get(factor)
        found = weight.shape[1] if factor == "lora_A" else weight.shape[0]
        if found != width:
            raise ModelError(
                f"the adapter {directory} is of another model: its {factor} of {path} is for a width of {found} and "
                f"the model has {width}; use the model it was trained on"
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
