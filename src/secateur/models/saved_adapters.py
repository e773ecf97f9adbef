"""A saved adapter's two files, read and checked before PEFT acts on them."""

import copy
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from secateur.errors import ModelError
from secateur.files import partial_of
from secateur.files.input_text import shortened
from secateur.files.json_text import parse_json
from secateur.models.text_half import OTHER_PARTS, text_name

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# The kinds that PEFT merges and whose merged models a test holds against the unmerged ones.
KINDS = (
    "LORA",
    "ADALORA",
    "ADAMSS",
    "C3A",
    "DEFT",
    "DELORA",
    "FOURIERFT",
    "FROD",
    "GLORA",
    "GRALORA",
    "HIRA",
    "HRA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "MISS",
    "OFT",
    "OSF",
    "PEANUT",
    "PSOFT",
    "PVERA",
    "RANDLORA",
    "ROAD",
    "SHIRA",
    "SUPERTUNING",
    "TINYLORA",
    "TRAINABLE_TOKENS",
    "UNILORA",
    "VBLORA",
    "VERA",
    "WAVEFT",
)
# Those that look at the values of the model's weights when they are put on it.
NEED_VALUES = ("ADALORA", "ADAMSS", "HIRA", "PEANUT", "SHIRA", "WAVEFT", "FROD", "TINYLORA", "VBLORA")
# What a LoRA's config may say. The rest imports modules, reads other files, changes the number of layers, or depends on
# the prompt, so that no weights stand for it.
LORA_FIELDS = frozenset(
    {
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "fan_in_fan_out",
        "bias",
        "use_rslora",
        "modules_to_save",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "trainable_token_indices",
        "use_dora",
        "lora_bias",
        "ensure_weight_tying",
        # Of how it was trained only.
        "init_lora_weights",
        "eva_config",
    }
)
# pissa and olora take the start out of the model's weights, which PEFT does again in the same way when it loads one.
INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva", "pissa", "olora")
COMMON_FIELDS = frozenset(field.name for field in dataclasses.fields(PeftConfig))
TASK_TYPES = (None, "CAUSAL_LM")
# What PEFT and the standard library raise where a config's values are of a wrong type or do not fit together.
WRONG_CONFIG = (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RuntimeError, ImportError)

# What stands before a module's name in the weights of an adapter, and what after it in those of a LoRA.
PREFIX = "base_model.model."
LORA_MATRIX = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight)?$")

MERGE_ELSEWHERE = "merge it with PEFT and name the merged model's directory instead"


@dataclass(frozen=True)
class SavedAdapter:
    """What the files hold."""

    directory: Path
    config: PeftConfig
    weights: Mapping[str, Tensor]


def read_adapter(directory: Path) -> SavedAdapter:
    """Read `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ModelError: one of them is not there, damaged or pickled, or the adapter is of a kind that is not supported.
    """
    config = _read_config(directory)
    return SavedAdapter(directory, config, _read_weights(directory))


def of_text_model(saved: SavedAdapter) -> SavedAdapter:
    """An adapter that was trained on a multimodal model, under the names of its text model; another as it is.

    Raises:
        ModelError: it changes other parts too, or its settings name modules by expressions that cannot be renamed.
    """
    names = {name: PREFIX + text_name(name.removeprefix(PREFIX)) for name in saved.weights}
    if saved.config.peft_type != "LORA" or all(name == own for name, own in names.items()):
        return saved
    other = next((name for name in names if OTHER_PARTS.match(name.removeprefix(PREFIX))), None)
    if other is not None:
        raise ModelError(
            f"the adapter {saved.directory} changes more than the text model, which alone is read here: {other}; train "
            "one of the text model"
        )
    weights = {names[name]: weight for name, weight in saved.weights.items()}
    config: Any = copy.deepcopy(saved.config)
    patterns = {field: getattr(config, field) or {} for field in ("rank_pattern", "alpha_pattern")}
    for field, pattern in patterns.items():
        setattr(config, field, {text_name(name): value for name, value in pattern.items()})
    if len(weights) < len(names) or any(
        "language_model" in name for field in patterns for name in getattr(config, field)
    ):
        raise ModelError(
            f"the adapter {saved.directory} is of a multimodal model and does not say in one way which modules of the "
            f"text model it changes; {MERGE_ELSEWHERE}"
        )
    adapted = (name for name in weights if LORA_MATRIX.search(name))
    config.target_modules = {LORA_MATRIX.sub("", name).removeprefix(PREFIX) for name in adapted}
    return SavedAdapter(saved.directory, config, weights)


def first_line(error: Exception) -> str:
    """An exception's message in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read_config(directory: Path) -> PeftConfig:
    file = directory / CONFIG
    if not file.is_file():
        raise ModelError(_absence(directory))
    try:
        settings = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {shortened(first_line(error), 200)}") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("peft_type"), str):
        raise ModelError(f"{file} cannot be read: it does not say which kind of adapter it is (peft_type)")
    _check_kind(settings, directory)
    try:
        config = PeftConfig.from_pretrained(str(directory))
    except WRONG_CONFIG as error:
        raise ModelError(f"{file} cannot be read: {shortened(first_line(error), 200)}") from error
    config.inference_mode = True
    return config


def _absence(directory: Path) -> str:
    if directory.exists():
        return f"{directory} is not a LoRA adapter: it has no {CONFIG}"
    unfinished = partial_of(directory)
    if unfinished.is_dir():
        return (
            f"{directory} does not exist; {unfinished} is an unfinished training: the same recover command goes on "
            "with it"
        )
    return f"{directory} does not exist"


def _check_kind(settings: Mapping[str, Any], directory: Path) -> None:
    """Raise `ModelError` where an adapter's config asks for what is not supported, before PEFT reads it."""
    kind, task = settings["peft_type"], settings.get("task_type")
    if kind not in KINDS:
        raise ModelError(
            f"{directory} is an adapter of kind {kind}, which is not supported; train a LoRA instead, or, where PEFT "
            f"can, {MERGE_ELSEWHERE}"
        )
    if task not in TASK_TYPES:
        raise ModelError(f"{directory} is an adapter for task {task}, not for a language model (CAUSAL_LM)")
    fields = {field.name: field for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    for name in _set_to_something(settings, fields):
        if name not in fields or (kind == "LORA" and name not in LORA_FIELDS | COMMON_FIELDS):
            raise ModelError(f"the {kind} adapter {directory} uses {name}, which is not supported; {MERGE_ELSEWHERE}")
    start = settings.get("init_lora_weights", True)
    if kind == "LORA" and start not in INITIALISATIONS:
        raise ModelError(
            f"the LORA adapter {directory} was started by init_lora_weights {start}, which changes the model's own "
            f"weights and is not supported; {MERGE_ELSEWHERE}"
        )
    for name, value in settings.items():
        if any(isinstance(number, float) and not math.isfinite(number) for number in _numbers(value)):
            raise ModelError(f"{directory / CONFIG} says {name} {value}, which is not finite")


def _set_to_something(settings: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    """The settings that switch something on: not those with PEFT's default, nor numbers and names of unknown fields."""
    for name, value in settings.items():
        field = fields.get(name)
        # An empty object where PEFT has none by default is a variant with all its defaults.
        if value == {} and field is not None and field.default is None:
            yield name
        if name == "runtime_config" or not value:
            continue
        if field is None:
            if value is True or isinstance(value, dict | list):
                yield name
        elif value != field.default:
            yield name


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
    else:
        yield value


def _read_weights(directory: Path) -> dict[str, Tensor]:
    file = directory / WEIGHTS
    if not file.is_file():
        pickled = "; pickled weights (*.bin) are not opened" if any(directory.glob("*.bin")) else ""
        raise ModelError(f"{directory} is not a LoRA adapter: it has no {WEIGHTS}{pickled}")
    try:
        weights = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{file} is truncated or corrupted: {shortened(first_line(error), 200)}") from error
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise ModelError(f"{file} holds NaN or infinite values in {name}; train the adapter anew")
    return weights
