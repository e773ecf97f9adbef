"""Why a family is not supported: what its layers, or the whole model, have that no table of names describes.

Known from the settings, and from Transformers' class of the type with one layer on the meta device. No code beside
weights is run.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    PreTrainedConfig,
)
from transformers.initialization import no_init_weights

from secateur.models.json_file import shown
from secateur.models.quiet import quiet

# What is said of a family, here and of a GGUF file.
EXPERTS = "its MLP is a mixture of experts"
LOW_RANK = "its queries, keys and values come from low-rank projections"
RECURRENT = "some or all of its layers are recurrent (state space, linear attention)"
SHARED = "some of its layers use the keys and values of others"
PER_LAYER_INPUTS = "its layers take embeddings of their own"
ENCODER = "it is an encoder"
ENCODER_DECODER = "it is an encoder-decoder"
NO_LANGUAGE_MODEL = "Transformers has no causal language model of it"
ANOTHER_KIND = "its layers are of another kind: secateur.models.register(adapter) can teach it"

# Fields of the configs of what a multimodal model reads.
INPUTS = {"text_config", "vision_config", "audio_config", "thinker_config"}
ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")
NUMBER_OF_EXPERTS = re.compile(r"(moe_)?(n|num)_\w*experts")
NAMED_EXPERTS = re.compile(r"Moe|MoE|Experts")


def obstacle(model_type: str, content: Mapping[str, Any] | None = None) -> str:
    """What stands against a family that no adapter knows, as a clause on one line.

    Args:
        model_type: of its config.
        content: its `config.json`, where there is one; what it leaves out is as the family has it.
    """
    if model_type not in CONFIG_MAPPING:
        return f"Transformers {transformers.__version__} does not know it"
    kind = cast(type[PreTrainedConfig], CONFIG_MAPPING[model_type])
    with quiet():
        settings = {**_defaults(kind), **(content or {})}
        whole = _of_the_whole_model(kind, settings)
        if whole is not None:
            return whole
        found = [*_of_settings(settings), *_of_class(kind)]
        return ", and ".join(found) or _of_kinds(settings) or _of_layer(kind, content or {})


def _defaults(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    with contextlib.suppress(Exception):  # some cannot be made without settings
        return dict(vars(_made(kind)))
    return {}


def _made(kind: Any, **settings: object) -> PreTrainedConfig:
    return cast(PreTrainedConfig, kind(**settings))


def _model_class(kind: type[PreTrainedConfig]) -> Any:
    return MODEL_FOR_CAUSAL_LM_MAPPING[kind]


def _of_the_whole_model(kind: type[PreTrainedConfig], settings: Mapping[str, Any]) -> str | None:
    """What makes it another thing than a decoder of text alone."""
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING
    if INPUTS & set(kind.sub_configs) and (causal or kind in MODEL_FOR_MULTIMODAL_LM_MAPPING):
        return multimodal(settings.get("text_config"))
    if settings.get("is_encoder_decoder"):
        return ENCODER_DECODER
    if kind in MODEL_FOR_MASKED_LM_MAPPING and not settings.get("is_decoder"):
        return ENCODER
    if not causal:
        return ", and ".join(_of_settings(settings)) or NO_LANGUAGE_MODEL
    return None


def multimodal(text_config: object) -> str:
    """What is said of a wrapper around a text model, whose config this is."""
    settings = text_config if isinstance(text_config, dict) else {}
    text = settings.get("model_type") or getattr(text_config, "model_type", None)
    return f"it is a multimodal wrapper of the text model {shown(text)!r}" if text else "it is a multimodal wrapper"


def _of_settings(settings: Mapping[str, Any]) -> Iterator[str]:
    """What numbers in the settings say of the layers."""

    def above(name: str, least: int) -> bool:
        value = settings.get(name)
        return isinstance(value, int) and value > least

    numbers = ((name, value) for name, value in _with_parts(settings) if isinstance(value, int))
    if any(value > 1 and NUMBER_OF_EXPERTS.fullmatch(str(name)) for name, value in numbers):
        yield EXPERTS
    if above("kv_lora_rank", 0) or above("q_lora_rank", 0):
        yield LOW_RANK
    if above("num_kv_shared_layers", 0):
        yield SHARED
    if above("hidden_size_per_layer_input", 0):
        yield PER_LAYER_INPUTS


def _with_parts(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings, and those of the parts that some are divided into."""
    yield from settings.items()
    for part in settings.values():
        named = vars(part) if isinstance(part, PreTrainedConfig) else part
        yield from named.items() if isinstance(named, dict) else ()


def _of_kinds(settings: Mapping[str, Any]) -> str | None:
    """What the kinds of layers say that are none of attention."""
    kinds = settings.get("layer_types")
    others = [kind for kind in kinds if kind not in ATTENTION] if isinstance(kinds, (list, tuple)) else []
    return f"some of its layers are of the kind {shown(others[0])!r}" if others else None


def _of_class(kind: type[PreTrainedConfig]) -> Iterator[str]:
    stateful = False
    with contextlib.suppress(Exception):  # its code may need a package that is not installed
        stateful = _model_class(kind)._is_stateful
    if stateful:
        yield RECURRENT


def _of_layer(kind: type[PreTrainedConfig], content: Mapping[str, Any]) -> str:
    """What the modules of the family's first layer say, at the family's own widths."""
    layer = None
    with contextlib.suppress(Exception):  # some cannot be made of one layer, or without settings
        layer = _first_layer(kind, content)
    if layer is None:
        return ANOTHER_KIND
    if any(NAMED_EXPERTS.search(type(module).__name__) for module in layer.modules()):
        return EXPERTS
    return ANOTHER_KIND


def _first_layer(kind: type[PreTrainedConfig], content: Mapping[str, Any]) -> nn.Module | None:
    # Of what stands in a file, only whether layers have this or that: other settings may load other code.
    known = {field.name for field in fields(kind)}
    switches = {name: value for name, value in content.items() if isinstance(value, bool) and name in known}
    with torch.device("meta"), no_init_weights():
        model: nn.Module = _model_class(kind)(_made(kind, num_hidden_layers=1, **switches))
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next((layers[0] for layers in lists if len(layers)), None)
