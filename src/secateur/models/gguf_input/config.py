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

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from secateur.errors import ModelError
from secateur.models.adapters import Adapter, adapter_for, supported_model_types
from secateur.models.gguf_input.families import COUNTS, ORIGINAL, SECTIONS, SWITCHES, file_family
from secateur.models.gguf_input.header import GGUFHeader
from secateur.models.gguf_input.rope import ROPE_KEYS, SHORT_AND_LONG, longrope, rope_parameters
from secateur.models.gguf_input.unsupported import obstacle
from secateur.models.json_file import shown
from secateur.models.widths import LayerWidths

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
# Those that read head counts and MLP widths layer by layer.
UNEVEN = ("deci", "openelm")
MOST_POSITIONS, LARGEST = 1 << 30, 1 << 24

READ = {
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "rope.dimension_count",
    "vocab_size",
    *ROPE_KEYS,
}
# Values at which a key changes nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "attention.temperature_scale": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "use_parallel_residual": (False,),
}
# What has no bearing on the probabilities of the next token.
HARMLESS = {"pooling_type", "tensor_data_layout", "classifier.output_labels", "rope.scaling.finetuned"}


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
    keys = _Keys(header, names.keys)
    keys.require_known()
    hidden, layers = keys.size("embedding_length"), keys.size("block_count")
    if layers > len(header.tensors):  # before lists are made of as many as the key claims
        raise keys.wrong(f"its header speaks of {layers:,} layers and it has {len(header.tensors):,} tensors")
    widths = keys.widths(layers)
    head_dim = keys.size("attention.key_length", LARGEST, hidden // widths[0].num_attention_heads)
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
        names.change(keys.family_values(), settings, widths[0])
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
    first = widths[0]
    if len(set(widths)) == 1:
        with contextlib.suppress(ValueError, StrictDataclassError):  # Llama's wants heads that divide the hidden size
            return adapter.stock_config(**settings, **asdict(first))
    group, inner = first.num_attention_heads // first.num_key_value_heads, max(w.intermediate_size for w in widths)
    most = max(width.num_key_value_heads for width in widths)
    layers: dict[str, Any] = {"per_layer_config": {layer: asdict(width) for layer, width in enumerate(widths)}}
    config = adapter.uneven_config(**settings, **asdict(LayerWidths(group * most, most, inner)), **layers)
    config.architectures = [adapter.uneven_model.__name__]
    return config


TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def _has(header: GGUFHeader, *names: str) -> bool:
    return any(tensor.split(".", 2)[-1] in names for tensor in header.tensors if tensor.startswith("blk."))


def rounded(value: float) -> float:
    """A number that was stored in float32, as it was written: 1e-06 for 9.999999974752427e-07."""
    return float(str(np.float32(value)))


class _Keys:
    """The keys of the file's architecture, without its name before them."""

    def __init__(self, header: GGUFHeader, of_family: frozenset[str]) -> None:
        self.header = header
        self.of_family = of_family
        self.prefix = f"{header.keys['general.architecture']}."
        self.short: dict[str, Any] = {
            key.removeprefix(self.prefix): _one(value)
            for key, value in header.keys.items()
            if key.startswith(self.prefix)
        }

    def wrong(self, reason: str) -> ModelError:
        return ModelError(f"{self.header.file} could not be loaded: {reason}")

    def require_known(self) -> None:
        for key, value in self.short.items():
            if key in READ or key in self.of_family or key in HARMLESS or _equal_to_one_of(value, NEUTRAL.get(key, ())):
                if key not in READ:
                    logger.debug("%s is %s in %s, which changes nothing", key, value, self.header.file)
                continue
            window = key == "attention.sliding_window" and isinstance(value, int)
            if window and (value <= 0 or value >= self.size("context_length", MOST_POSITIONS)):
                continue
            raise ModelError(
                f"{self.header.file} sets {self.prefix}{key} to {shown(value)}, which secateur does not carry: "
                "another model would come out; take the original model's directory"
            )

    def for_rope(self) -> dict[str, Any]:
        """The keys of rotary positions but the one that is a family's own."""
        return {key: value for key, value in self.short.items() if key not in self.of_family - {ORIGINAL}}

    def family_values(self) -> dict[str, Any]:
        """Those that are the family's own: whole numbers of windows, else numbers that are not negative."""
        found: dict[str, Any] = {}
        for key in self.of_family & set(self.short):
            value = self.short[key]
            if key == SECTIONS:
                found[key] = value
                continue
            if key in SWITCHES:
                if not isinstance(value, bool):
                    raise self.wrong(f"{self.prefix}{key} is {_stated(value)} and must be true or false")
                found[key] = value
                continue
            if key in COUNTS:
                found[key] = self._checked(key, value, MOST_POSITIONS)
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise self.wrong(f"{self.prefix}{key} is {_stated(value)} and must be a number of at least 0")
            found[key] = rounded(value)
        return found

    def size(self, key: str, most: int = LARGEST, default: int | None = None) -> int:
        """A whole number of at least 1."""
        return self._checked(key, self.short.get(key, default), most)

    def widths(self, layers: int) -> list[LayerWidths]:
        """Of every layer, from lists or from one number for all."""
        for key in ("attention.head_count", "feed_forward_length"):
            if isinstance(self.short.get(key), list) and 0 in self.short[key]:
                raise self.wrong("it has layers without attention or MLP, which are read from a model directory only")
        heads = self._per_layer("attention.head_count", layers)
        key_value_heads = self._per_layer("attention.head_count_kv", layers, heads)
        widths = zip(heads, key_value_heads, self._per_layer("feed_forward_length", layers), strict=True)
        if (
            len({query / key for query, key in zip(heads, key_value_heads, strict=True)}) > 1
            or heads[0] % (key_value_heads[0])
        ):
            raise self.wrong(
                f"{self.prefix}attention.head_count is {shown(heads)} and head_count_kv {shown(key_value_heads)}, and "
                "secateur reads files where each layer has the same whole number of query heads to a key/value head"
            )
        return [LayerWidths(*width) for width in widths]

    def _per_layer(self, key: str, layers: int, default: list[int] | None = None) -> list[int]:
        value = self.short.get(key, default)
        if not isinstance(value, list):
            return [self._checked(key, value)] * layers
        if len(value) != layers or (self.prefix.removesuffix(".") not in UNEVEN and len(set(value)) > 1):
            raise self.wrong(f"{self.prefix}{key} has {len(value)} entries that differ, for {layers} layers")
        return [self._checked(key, each) for each in value]

    def _checked(self, key: str, value: object, most: int = LARGEST) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self.wrong(f"{self.prefix}{key} is {_stated(value)} and must be a whole number from 1 to {most:,}")
        return value

    def positive(self, key: str) -> float:
        value = self.short.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self.wrong(f"{self.prefix}{key} is {_stated(value)} and must be a number above 0")
        return rounded(value)

    def require(self, key: str, expected: float, what: str) -> None:
        """Raise `ModelError` where the key is there and not this number."""
        value = self.short.get(key, expected)
        if not _equal_to_one_of(value, (expected,)):
            raise self.wrong(
                f"{self.prefix}{key} is {shown(value)}, and secateur reads files where it is {what}, {expected:g}"
            )

    def token(self, key: str) -> int | None:
        name = f"tokenizer.ggml.{key}_token_id"
        value = self.header.keys.get(name)
        rows = self.rows("token_embd.weight")
        if value is not None and (not isinstance(value, int) or not 0 <= value < rows):
            raise self.wrong(f"{name} is {shown(value)}, outside the {rows:,} embeddings")
        return value

    def rows(self, name: str) -> int:
        if name not in self.header.tensors:
            raise self.wrong(f"it lacks the tensor {name}")
        return self.header.tensors[name].shape[0]


def _one(value: object) -> object:
    """The number of a list that says the same for every layer."""
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        return value[0]
    return value


def _equal_to_one_of(value: object, neutral: tuple[object, ...]) -> bool:
    if isinstance(value, (int, float)):
        return any(isinstance(each, (int, float)) and math.isclose(value, each, rel_tol=1e-6) for each in neutral)
    return value in neutral


def _stated(value: object) -> str:
    return "missing" if value is None else shown(value)
