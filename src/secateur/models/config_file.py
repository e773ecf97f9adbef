"""Reading a model's `config.json`: checked first, then made into Transformers' config of its family."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from secateur.errors import ModelError, SecateurError
from secateur.models.adapters import Adapter, adapter_for, is_uneven_type
from secateur.models.config_schema import WIDTHS, DeclaredConfig, complaint
from secateur.models.generation_schema import GenerationSettings
from secateur.models.json_file import CONFIG, one_line, read_object, shown
from secateur.models.quantised import with_plain_weights
from secateur.models.quiet import quiet
from secateur.models.text_half import text_settings
from secateur.models.widths import square_attention

logger = logging.getLogger(__name__)

GENERATION = "generation_config.json"
# How a model is run is no property of its checkpoint; some of these would make Transformers load other code.
OF_THE_MACHINE = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "use_return_dict",
    "fusion_config",
    "kernel_config",
    "distributed_config",
    "name_or_path",
    "_name_or_path",
)
# Settings of other programs that have the name of a method that nothing here calls.
METHODS = ("update",)
# What makes Transformers read other files, or other widths than those that stand here.
REFUSED = {
    "configuration_files": "names another file to read the settings from",
    "transformers_weights": "names another file to read the weights from",
    "_heterogeneity_spec": "holds what Transformers notes of per_layer_config for itself",
}
# Where Transformers finds one of these, whatever is in it, it takes that for the settings of the text model.
OTHER_TEXT_MODELS = ("text_config", "decoder", "generator", "text_encoder")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a library raises over a file into a `ModelError` of one line that names it."""
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        raise ModelError(f"{what} could not be loaded: {one_line(error)}") from error


def check_config(content: Mapping[str, Any], source: str = CONFIG) -> DeclaredConfig:
    """What a `config.json` says, once it is sure that it can be.

    Args:
        content: the parsed file. Of a multimodal family its text model counts.
        source: what messages call it.

    Raises:
        ModelError: another family, a field of a wrong type or outside of its range, or fields that do not fit each
            other.
    """
    content = text_settings(content, source)
    if not isinstance(content.get("model_type"), str):
        raise ModelError(f"{source} is wrong: it names no model_type")
    adapter = adapter_for(shown(content["model_type"]), content)
    try:
        declared = DeclaredConfig.model_validate(_rope_by_layer_type_apart(adapter, _without_nothings(content)))
    except ValidationError as error:
        raise ModelError(f"{source} is wrong: {complaint(error)}") from error
    for name, why in REFUSED.items():
        if content.get(name) not in (None, {}, [], ""):
            raise ModelError(f"{source} {why} ({name}), and secateur reads none such; take it out")
    for name in OTHER_TEXT_MODELS:
        if content.get(name) is not None:
            raise ModelError(
                f"{source} has settings of another text model inside ({name}), which is not read; take it out"
            )
    if is_uneven_type(declared.model_type):
        absent = {f"{name}_per_layer" for name in WIDTHS} - set(declared.lists)
        if declared.lists and absent:
            raise ModelError(
                f"{source} is wrong: it has {', '.join(declared.lists)} without {', '.join(sorted(absent))}"
            )
    elif not _read_by_layer(adapter, declared):
        raise ModelError(
            f"{source} gives layers settings of their own (per_layer_config), which the code of {declared.model_type} "
            f"does not read; a model of secateur with such layers is of type {adapter.uneven_config.model_type}"
        )
    for name, what in (adapter.refused or {}).items():
        if content.get(name):
            raise ModelError(f"{source} is of a {adapter.model_type} with {name}, which is not supported: {what}")
    for complaint_of_family in _unread_by_the_family(adapter, declared):
        raise ModelError(f"{source} is wrong: {complaint_of_family}")
    _check_names(content, family_config(adapter, declared.model_type), source)
    return declared


def _read_by_layer(adapter: Adapter, declared: DeclaredConfig) -> bool:
    """Whether a family's own code reads all that its config says of single layers."""
    layers = (declared.per_layer_config or {}).values()
    said = {name for overrides in layers for name in overrides.model_dump(exclude_none=True)}
    return said <= ({*adapter.by_layer, "num_key_value_heads"} if adapter.by_layer else set())


def _rope_by_layer_type_apart(adapter: Adapter, settings: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` by kind of layer under a name of its own, where the family's code reads it so."""
    rope = settings.get("rope_parameters")
    if not adapter.rope_by_layer_type or not isinstance(rope, dict):
        return settings
    if not any(isinstance(part, dict) for part in rope.values()):
        return settings
    return {**settings, "rope_parameters": None, "rope_by_layer_type": rope}


def _unread_by_the_family(adapter: Adapter, declared: DeclaredConfig) -> Iterator[str]:
    """What a config says that the code of its family does not read."""
    if not adapter.partial_rotary:
        places = {name: rope.partial_rotary_factor for name, rope in declared.ropes.items()}
        for name, factor in {**places, "": declared.partial_rotary_factor}.items():
            if factor not in (None, 1):
                field = f"{name}.partial_rotary_factor".removeprefix(".")
                yield f"{field} is {factor:g}, and the code of {adapter.model_type} rotates whole heads"
    for layer, overrides in (declared.per_layer_config or {}).items():
        if overrides.head_dim is not None and "head_dim" not in adapter.by_layer:
            yield f"per_layer_config: layer {layer} has head_dim, and layers may differ in {', '.join(WIDTHS)}"
    if declared.square_attention not in (None, square_attention(adapter) or None):
        yield f"square_attention is {shown(declared.square_attention)}, which is not what {adapter.model_type} has"
    if "linear_attention" in (declared.layer_types or ()) and not adapter.has_linear_attention:
        yield f"layer_types has linear_attention, which the code of {adapter.model_type} does not have"


def read_config(directory: Path) -> tuple[dict[str, Any], DeclaredConfig]:
    """The content of a directory's `config.json`, and what it says: of its text model. Errors as `check_config`."""
    source = str(directory / CONFIG)
    content = text_settings(read_object(directory / CONFIG), source)
    return content, check_config(content, source)


def load_config(directory: Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Transformers' config of a model directory.

    Args:
        directory: holds `config.json`.
        trust_remote_code: let code beside the weights make the config, where the file names some.

    Raises:
        ModelError: the file, or `generation_config.json` beside it, is wrong.
    """
    content, declared = read_config(directory)
    source = str(directory / CONFIG)
    with quiet(), reading(source):
        if trust_remote_code and "AutoConfig" in (declared.auto_map or {}):
            return AutoConfig.from_pretrained(directory, trust_remote_code=True)
        config = build_config(content)
    config.name_or_path = str(directory)
    return config


def build_config(content: Mapping[str, Any]) -> PreTrainedConfig:
    """Transformers' config of a family, from a content that `check_config` has passed.

    Raises:
        Exception: what Transformers' own checks raise.
    """
    content = text_settings(content, CONFIG)
    kind = family_config(adapter_for(content["model_type"]), content["model_type"])
    passed_over = (*OF_THE_MACHINE, *METHODS)
    settings = _without_nothings(with_plain_weights(content))
    settings = {name: value for name, value in settings.items() if name not in passed_over}
    if settings.get("rope_theta", 0) is None:
        del settings["rope_theta"]
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(settings.get(name), dict):
            # Transformers takes a null for a number.
            settings[name] = {part: value for part, value in settings[name].items() if value is not None}
    return kind.from_dict(settings)


def check_generation_config(directory: Path) -> None:
    """Check `generation_config.json`, where there is one. Raises `ModelError`."""
    file = directory / GENERATION
    if not file.is_file():
        return
    content = read_object(file)
    try:
        GenerationSettings.model_validate(content)
    except ValidationError as error:
        raise ModelError(f"{file} is wrong: {complaint(error)}") from error
    with quiet(), reading(str(file)):
        GenerationConfig.from_dict(content)


def family_config(adapter: Adapter, model_type: str) -> type[PreTrainedConfig]:
    """The config class of a family, for layers of one width or of several."""
    return adapter.uneven_config if is_uneven_type(model_type) else adapter.stock_config


def _without_nothings(content: Mapping[str, Any]) -> dict[str, Any]:
    """A `config.json` with null for what was written for none: -1 or an empty list of tokens, 0 or -1 for a window.

    A window stays as it is in a family that reads it.
    """
    settings = dict(content)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = settings.get(name)
        if value == [] or (type(value) is int and value == -1):
            settings[name] = None
    kind = family_config(adapter_for(content["model_type"]), content["model_type"])
    window = settings.get("sliding_window")
    if type(window) is int and window in (0, -1) and "sliding_window" not in {field.name for field in fields(kind)}:
        settings["sliding_window"] = None
    return settings


def _check_names(content: Mapping[str, Any], kind: type[PreTrainedConfig], source: str) -> None:
    """Refuse keys that would replace a part of the config class itself."""
    known = {*(field.name for field in fields(kind)), "model_type"}
    for name in content:
        if name in known or name in OF_THE_MACHINE or name in METHODS or name.endswith("_plan"):
            continue
        part = getattr(kind, name, None) if not name.startswith("__") else kind
        if part is not None and not (isinstance(part, property) and part.fset is not None):
            raise ModelError(f"{source} is wrong: {shown(name)!r} is no setting of a model; take it out")
