"""What a GGUF file says of its architecture, as a config of Transformers.

Every key of the architecture is either read here, or must have the value at which it changes nothing, or is refused by
its name: a setting that is dropped in silence gives another model than the one in the file.
"""

import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from secateur.errors import ModelError
from secateur.models.adapters import Adapter, adapter_for, supported_model_types
from secateur.models.gguf_input.families import file_family
from secateur.models.gguf_input.header import GGUFHeader
from secateur.models.gguf_input.keys import LARGEST, MOST_POSITIONS, Keys
from secateur.models.gguf_input.rope import SHORT_AND_LONG, longrope, rope_parameters
from secateur.models.gguf_input.unsupported import obstacle
from secateur.models.json_file import shown
from secateur.models.widths import LayerWidths, first_with_heads, overrides, skipped, skipped_modules, square_attention

logger = logging.getLogger(__name__)

# llama.cpp's architecture to the family that computes the same. Files of Mistral are of `llama`.
FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen35": "qwen3_5_text",
    "deci": "llama",
    "openelm": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "olmo2": "olmo2",
    "granite": "granite",
    "glm4": "glm4",
    "mistral3": "ministral3",
    "seed_oss": "seed_oss",
    "starcoder2": "starcoder2",
    "command-r": "cohere",
    "cohere2": "cohere2",
    "gptneox": "gpt_neox",
}
# Of an architecture whose files are of another family where they have a key.
OTHERS = {("olmo2", "olmo2.attention.sliding_window"): "olmo3"}


def family_of(header: GGUFHeader) -> str:
    """The `model_type` of the family that computes as the file's architecture does.

    Raises:
        ModelError: there is none.
    """
    architecture = header.keys.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelError(f"{header.file} could not be loaded: it names no general.architecture")
    kind = header.keys.get("general.type", "model")
    if kind != "model":
        raise ModelError(f"{header.file} holds no model: its general.type is {shown(kind)}")
    if architecture not in FAMILIES:
        raise ModelError(
            f"the architecture '{shown(architecture)}' of {header.file} is not supported: {obstacle(header)}; "
            f"supported are {', '.join(supported_model_types())}"
        )
    return FAMILIES[architecture]


def config_of(header: GGUFHeader) -> PreTrainedConfig:
    """The config of the model in a GGUF file.

    Raises:
        ModelError: the architecture is not supported, a key is missing or has no sensible value, or a key of the
            architecture says something that the family's config cannot.
    """
    family = family_of(header)
    family = next((other for (one, key), other in OTHERS.items() if one == family and key in header.keys), family)
    names = file_family(family)
    keys = Keys(header, names.keys)
    keys.require_known()
    hidden, layers = keys.size("embedding_length"), keys.size("block_count")
    if layers > len(header.tensors):  # before lists are made of as many as the key claims
        raise keys.wrong(f"its header speaks of {layers:,} layers and it has {len(header.tensors):,} tensors")
    in_file = keys.widths(layers)
    widths = keys.own_widths(in_file)
    heads = first_with_heads(in_file).num_attention_heads
    head_dim = keys.size("attention.key_length", LARGEST, hidden // heads)
    keys.require("attention.value_length", head_dim, "as large as attention.key_length")
    rotated = keys.size("rope.dimension_count", head_dim, head_dim) if names.part_of_head else head_dim
    keys.require("rope.dimension_count", rotated, "the whole head")
    if "attention.scale" not in names.keys:
        keys.require("attention.scale", 1 / math.sqrt(head_dim), "one over the square root of the head's size")
    if head_dim % 2 or rotated % 2:
        raise keys.wrong(f"heads of {head_dim} cannot be rotated in pairs")
    longest = keys.size("context_length", MOST_POSITIONS)
    if "longrope" in names.rope and any(name in header.tensors for name in SHORT_AND_LONG):
        rope = longrope(keys.short, header, rotated)
    else:
        rope = rope_parameters(keys.for_rope(), header, rotated, longest)
    if names.part_of_head:
        rope["partial_rotary_factor"] = rotated / head_dim
    if rope["rope_type"] not in names.rope:
        raise keys.wrong(f"rotary positions of the type {rope['rope_type']} are not known of {family}")
    settings: dict[str, Any] = {
        "vocab_size": keys.rows("token_embd.weight"),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "head_dim": head_dim,
        "max_position_embeddings": longest,
        "rms_norm_eps": keys.positive(f"attention.layer_norm_{'' if names.layer_norm else 'rms_'}epsilon"),
        "rope_parameters": rope,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        **{f"{role}_token_id": keys.token(key) for role, key in TOKENS.items()},
        **{
            setting: _has(header, *(f"{name}.bias" for name in biased))
            for setting, biased in names.may_have_bias.items()
        },
    }
    try:
        names.change(keys.family_values(), settings, first_with_heads(in_file))
        config = _with_widths(adapter_for(family), settings, widths)
    except (ValueError, StrictDataclassError) as error:
        raise keys.wrong(str(error).strip().splitlines()[-1].strip()) from error
    config.name_or_path = str(header.file)
    logger.debug(
        "%s is read as %s with rotary positions %s, biases in attention: %s, in the MLP: %s",
        header.file,
        config.model_type,
        settings["rope_parameters"],
        settings.get("attention_bias", "as the family has them"),
        settings.get("mlp_bias", False),
    )
    return config


def _with_widths(adapter: Adapter, settings: dict[str, Any], widths: Sequence[LayerWidths]) -> PreTrainedConfig:
    """The stock config where it takes these widths, else the one that has them layer by layer."""
    first = first_with_heads(widths)
    square = square_attention(adapter)
    if len(set(widths)) == 1 and not (
        square and first.num_attention_heads * settings["head_dim"] != settings["hidden_size"]
    ):
        with contextlib.suppress(ValueError, StrictDataclassError):  # Llama's wants heads that divide the hidden size
            return adapter.stock_config(**settings, **asdict(first))
    group, inner = first.num_attention_heads // first.num_key_value_heads, max(w.intermediate_size for w in widths)
    most = max(width.num_key_value_heads for width in widths)
    layers: dict[str, Any] = {"per_layer_config": {layer: overrides(width) for layer, width in enumerate(widths)}}
    if any(map(skipped, widths)):
        layers["skipped_modules"] = skipped_modules(adapter)
    if square:
        layers["square_attention"] = square
    config = adapter.uneven_config(**settings, **asdict(LayerWidths(group * most, most, inner)), **layers)
    config.architectures = [adapter.uneven_model.__name__]
    return config


TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def _has(header: GGUFHeader, *names: str) -> bool:
    return any(tensor.split(".", 2)[-1] in names for tensor in header.tensors if tensor.startswith("blk."))
