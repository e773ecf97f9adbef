"""What a GGUF file says of its architecture, as a config of Transformers.

Every key of the architecture is either read here, or must have the value at which it changes nothing, or is refused by
its name: a setting that is dropped in silence gives another model than the one in the file.
"""

import logging
import math
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from secateur.errors import ModelError
from secateur.models.adapters import adapter_for, supported_model_types
from secateur.models.gguf_header import GGUFHeader
from secateur.models.gguf_rope import ROPE_KEYS, rope_parameters

logger = logging.getLogger(__name__)

# llama.cpp's architecture to the family that computes the same. Files of Mistral are of `llama`.
FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# Architectures that `secateur export` takes for models whose layers differ.
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
        raise ModelError(f"{header.file} holds no model: its general.type is {kind}")
    if architecture in UNEVEN:
        raise ModelError(
            f"{header.file} could not be loaded: its architecture is {architecture}, which secateur export writes "
            "where layers have widths of their own or heads do not add up to the hidden size, and which only llama.cpp "
            "reads; name the model directory that it was exported from"
        )
    if architecture not in FAMILIES:
        raise ModelError(
            f"the architecture '{architecture}' of {header.file} is not supported; supported are "
            f"{', '.join(supported_model_types())}"
        )
    return FAMILIES[architecture]


def config_of(header: GGUFHeader) -> PreTrainedConfig:
    """The config of the model in a GGUF file.

    Raises:
        ModelError: the architecture is not supported, a key is missing or has no sensible value, or a key of the
            architecture says something that the family's config cannot.
    """
    family = family_of(header)
    keys = _Keys(header)
    keys.require_known()
    hidden, layers = keys.size("embedding_length"), keys.size("block_count")
    heads = keys.size("attention.head_count", LARGEST)
    key_value_heads = keys.size("attention.head_count_kv", LARGEST, heads)
    head_dim = keys.size("attention.key_length", LARGEST, hidden // heads)
    keys.require("attention.value_length", head_dim, "as large as attention.key_length")
    keys.require("rope.dimension_count", head_dim, "the whole head")
    keys.require("attention.scale", 1 / math.sqrt(head_dim), "one over the square root of the head's size")
    if heads % key_value_heads or head_dim % 2 or not head_dim:
        raise keys.wrong(f"{heads} query heads of {head_dim} over {key_value_heads} key/value heads are no attention")
    longest = keys.size("context_length", MOST_POSITIONS)
    settings: dict[str, Any] = {
        "vocab_size": keys.rows("token_embd.weight"),
        "hidden_size": hidden,
        "intermediate_size": keys.size("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": head_dim,
        "max_position_embeddings": longest,
        "rms_norm_eps": keys.positive("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope_parameters(keys.short, header, head_dim, longest),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": _has(header, "attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"),
        "mlp_bias": _has(header, "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"),
        **{f"{role}_token_id": keys.token(key) for role, key in TOKENS.items()},
    }
    if family != "llama":
        del settings["mlp_bias"]
    if family == "qwen2":
        del settings["attention_bias"]  # it always has one
    config = adapter_for(family).stock_config(**settings)
    config.name_or_path = str(header.file)
    return config


TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def _has(header: GGUFHeader, *names: str) -> bool:
    return any(tensor.split(".", 2)[-1] in names for tensor in header.tensors if tensor.startswith("blk."))


def rounded(value: float) -> float:
    """A number that was stored in float32, as it was written: 1e-06 for 9.999999974752427e-07."""
    return float(str(np.float32(value)))


class _Keys:
    """The keys of the file's architecture, without its name before them."""

    def __init__(self, header: GGUFHeader) -> None:
        self.header = header
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
            if key in READ or key in HARMLESS or _equal_to_one_of(value, NEUTRAL.get(key, ())):
                if key not in READ:
                    logger.debug("%s is %s in %s, which changes nothing", key, value, self.header.file)
                continue
            window = key == "attention.sliding_window" and isinstance(value, int)
            if window and (value <= 0 or value >= self.size("context_length", MOST_POSITIONS)):
                continue
            raise ModelError(
                f"{self.header.file} sets {self.prefix}{key} to {_shown(value)}, which secateur does not carry: "
                "another model would come out; take the original model's directory"
            )

    def size(self, key: str, most: int = LARGEST, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self.short.get(key, default)
        if isinstance(value, list):
            raise self.wrong(
                f"{self.prefix}{key} differs from layer to layer, which Transformers' own classes do not have; name "
                "the model directory that it was exported from"
            )
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self.wrong(f"{self.prefix}{key} is {_shown(value)} and must be a whole number from 1 to {most:,}")
        return value

    def positive(self, key: str) -> float:
        value = self.short.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self.wrong(f"{self.prefix}{key} is {_shown(value)} and must be a number above 0")
        return rounded(value)

    def require(self, key: str, expected: float, what: str) -> None:
        """Raise `ModelError` where the key is there and not this number."""
        value = self.short.get(key, expected)
        if not _equal_to_one_of(value, (expected,)):
            raise self.wrong(
                f"{self.prefix}{key} is {_shown(value)}, and secateur reads files where it is {what}, {expected:g}"
            )

    def token(self, key: str) -> int | None:
        name = f"tokenizer.ggml.{key}_token_id"
        value = self.header.keys.get(name)
        rows = self.rows("token_embd.weight")
        if value is not None and (not isinstance(value, int) or not 0 <= value < rows):
            raise self.wrong(f"{name} is {_shown(value)}, outside the {rows:,} embeddings")
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


def _shown(value: object) -> str:
    return "missing" if value is None else str(value)[:80]
