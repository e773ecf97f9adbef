"""Looking at a checkpoint before it is loaded: is it a model, whole, safe and of a supported family?"""

import json
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.models.adapters import adapter_for

logger = logging.getLogger(__name__)

PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def check_directory(directory: Path) -> None:
    """Check a model directory before any of it is loaded.

    Raises:
        ModelError: it holds no model, only pickled weights, a damaged or missing safetensors file, or a family that
            is not supported.
    """
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise ModelError(f"{directory} is not a model directory: it has no config.json{_adapter_hint(directory)}")
    check_config(_read_json(config_file))
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        _refuse_pickles(directory)
        raise ModelError(f"{directory} has a config.json but no *.safetensors file with weights")
    _check_shards(directory)
    for file in weights:
        check_safetensors(file)


def check_config(config: dict[str, object]) -> None:
    """Raise `ModelError` for the `config.json` of an unsupported family."""
    adapter_for(str(config.get("model_type", "unknown")))


def check_safetensors(file: Path) -> None:
    """Raise `ModelError` when a safetensors file is cut short or its header cannot be read."""
    try:
        with safe_open(file, framework="pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is truncated or corrupted ({error}); download it again or restore it from its source"
        ) from error


def require_finite(model: PreTrainedModel, what: str) -> None:
    """Raise `ModelError` where a weight is NaN or infinite.

    Args:
        model: the model.
        what: what the message calls it.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{what} holds NaN or infinite values in {name}; secateur diagnose lists what is wrong")


def warn_of_long_windows(model: PreTrainedModel, seqlen: int) -> None:
    """Log a warning where windows of `seqlen` tokens reach past the positions that the model was made for."""
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and seqlen > longest:
        logger.warning(
            "Windows of %d tokens are longer than the %d that the model in %s was made for",
            seqlen,
            longest,
            model.name_or_path or "memory",
        )


def _check_shards(directory: Path) -> None:
    index_file = directory / "model.safetensors.index.json"
    if not index_file.is_file():
        return
    weight_map = _read_json(index_file).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"{index_file} has no weight_map; restore it from its source")
    missing = sorted({name for name in weight_map.values() if not (directory / str(name)).is_file()})
    if missing:
        raise ModelError(f"{directory} lacks {', '.join(missing)}, which its index names; copy the missing files")


def _refuse_pickles(directory: Path) -> None:
    pickles = sorted(file.name for pattern in PICKLES for file in directory.glob(pattern))
    if pickles:
        raise ModelError(
            f"{directory} holds its weights as a pickle ({pickles[0]}), which can run any code when it is opened; "
            "convert it to safetensors on a machine that trusts it (save_pretrained writes them) and use that"
        )


def _adapter_hint(directory: Path) -> str:
    if (directory / "adapter_config.json").is_file():
        return "; it is a LoRA adapter: merge it first (secateur merge MODEL --adapter DIR), or pass it as --adapter"
    return ""


def _read_json(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not valid JSON ({error}); restore it from its source") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not a JSON object; restore it from its source")
    return content
