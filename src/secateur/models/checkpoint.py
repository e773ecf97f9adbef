"""Reading a model directory into Transformers' model of its family, with all that it stores and nothing else."""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from secateur.errors import ModelError
from secateur.models.adapters import adapter_of
from secateur.models.config_file import load_config, read_config, reading
from secateur.models.json_file import CONFIG
from secateur.models.packed_files import (
    packed_modules,
    require_plain_load,
    unpack_into,
    without_packed,
    without_quantisation,
)
from secateur.models.quiet import quiet
from secateur.models.text_half import NAMES, OTHER_PARTS, holds_text_half, model_tensors, text_name, with_what_is_there
from secateur.models.weight_files import DERIVED, StoredTensor, stored_dtype

logger = logging.getLogger(__name__)

# No adapter stands there: Transformers would put one that lies beside the model on it, without a word.
NOWHERE = "no-adapter"
BODY = "model."


def read_model(directory: Path, *, trust_remote_code: bool = False, **arguments: Any) -> PreTrainedModel:
    """The model of a directory that `checks.check_directory` has passed.

    Args:
        directory: of the model.
        trust_remote_code: run code that stands beside the weights.
        arguments: passed to `from_pretrained`. A `dtype` of `auto` is the checkpoint's own.

    Raises:
        ModelError: the weights are not those that the config asks for: one is missing, of another shape, or more.
    """
    config = load_config(directory, trust_remote_code=trust_remote_code)
    tensors = model_tensors(directory)
    multimodal = holds_text_half(directory)
    packed = packed_modules(tensors)
    if packed:
        require_plain_load(directory, arguments)
        config = without_quantisation(config)
    check_shapes(directory, config, tensors, trust_remote_code=trust_remote_code)
    if arguments.get("dtype") == "auto":
        arguments["dtype"] = checkpoint_dtype(directory)
    with quiet(), reading(str(directory)), with_what_is_there(directory) as place:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they can be named below
            key_mapping=dict(NAMES) if multimodal else None,
            adapter_kwargs={"subfolder": NOWHERE},
            trust_remote_code=trust_remote_code,
            **arguments,
        )
    model, loading = loaded
    model.config.name_or_path = model.name_or_path = str(directory)
    if multimodal:
        loading["unexpected_keys"] = {name for name in loading["unexpected_keys"] if not OTHER_PARTS.match(name)}
    if packed:
        unpack_into(model, directory, packed)
        loading = without_packed(loading, packed)
    _require_all(directory, loading)
    adapter_of(model)
    if model.generation_config.eos_token_id == []:  # `generate` would look for the first
        model.generation_config.eos_token_id = None
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(f"{directory} holds an adapter that could not be left out; move it to a directory of its own")
    _settle_tying(directory, model)
    if multimodal or any(text_name(name) != name for name in tensors):
        model._weight_conversions = None  # or it would be saved under the names it had
    if getattr(config, "quantization_config", None) is not None:
        _settle_dequantised(model, arguments.get("dtype"))
    return model


def checkpoint_dtype(directory: Path) -> torch.dtype:
    """The number format of a directory's weights: what its config says, else what most of the stored numbers have."""
    _, declared = read_config(directory)
    stated = declared.stated_dtype or stored_dtype(model_tensors(directory))
    dtype = getattr(torch, stated or "float32")
    assert isinstance(dtype, torch.dtype)
    return dtype


def check_shapes(
    directory: Path,
    config: PreTrainedConfig,
    tensors: Mapping[str, StoredTensor],
    *,
    trust_remote_code: bool = False,
) -> None:
    """Compare the stored shapes with those of the config, before anything of that size is made.

    Raises:
        ModelError: one is another.
    """
    with quiet(), reading(str(directory)), torch.device("meta"), no_init_weights():
        model: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    for name in sorted(tensors):
        expected = shapes.get(name, shapes.get(BODY + name))
        if expected is not None and expected != tensors[name].shape:
            raise _other_shape(directory, name, tensors[name].shape, expected)
        if BODY + name in tensors and BODY + name in shapes:
            raise ModelError(
                f"{directory} holds {BODY}{name} twice, once as {name}; restore its files from their source"
            )


def _require_all(directory: Path, loading: Mapping[str, Any]) -> None:
    """Every weight of the architecture has been read, and every stored one has found its place."""
    if loading["mismatched_keys"]:
        name, stored, expected = min(loading["mismatched_keys"])
        raise _other_shape(directory, name, tuple(stored), tuple(expected))
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ModelError(
            f"{directory} lacks {len(missing)} weights of its architecture, {missing[0]} first; its files are not "
            f"complete or its {CONFIG} is of another model"
        )
    unexpected = sorted(name for name in loading["unexpected_keys"] if not DERIVED.search(name))
    if unexpected:
        first, *others = unexpected
        more = f" and {len(others)} more weights" if others else ""
        raise ModelError(
            f"{directory} holds {first}{more}, which its {CONFIG} does not ask for; without them it would be another "
            "model: mend the config (attention_bias, mlp_bias …) or use the original checkpoint"
        )
    if loading.get("error_msgs") or loading.get("conversion_errors"):
        problems = loading.get("error_msgs") or loading.get("conversion_errors")
        raise ModelError(f"{directory} could not be loaded: {str(problems)[:300]}")


def _other_shape(directory: Path, name: str, stored: tuple[int, ...], expected: tuple[int, ...]) -> ModelError:
    return ModelError(
        f"{directory} holds {name} of shape {stored} where its {CONFIG} asks for {expected}; one of the two is of "
        "another model"
    )


def _settle_dequantised(model: PreTrainedModel, dtype: torch.dtype | None) -> None:
    """Have a model whose packed weights were multiplied out be an ordinary one of one number format."""
    # Transformers would pack the weights again where it saves them, and not say so in the config.
    model._weight_conversions = None  # type: ignore[assignment]
    for parameter in model.parameters():  # what was not packed has kept the format that it is stored in
        if dtype is not None and parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def _settle_tying(directory: Path, model: PreTrainedModel) -> None:
    """Where a head is stored that is not the embeddings, have the config say so: Transformers keeps both."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if not model.config.tie_word_embeddings or head is None or head.weight is embeddings.weight:
        return
    if head.weight.device.type == "meta":  # spread to disk
        return
    logger.warning(
        "%s says tie_word_embeddings, and the weights hold a head of its own (lm_head.weight), which is used",
        directory / CONFIG,
    )
    model.config.tie_word_embeddings = False
