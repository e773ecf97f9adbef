"""The keys of a GGUF file's architecture, each read, known to change nothing, or refused by its name."""

import logging
import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from secateur.errors import ModelError
from secateur.models.gguf_input.families import COUNTS, ORIGINAL, SECTIONS, SWITCHES
from secateur.models.gguf_input.header import GGUFHeader
from secateur.models.gguf_input.rope import ROPE_KEYS
from secateur.models.json_file import shown
from secateur.models.widths import LayerWidths

logger = logging.getLogger(__name__)

MOST_POSITIONS, LARGEST = 1 << 30, 1 << 24
# Architectures that read head counts and MLP widths layer by layer, and the one whose layers may lack a half.
UNEVEN, WITHOUT_HALVES = ("deci", "openelm"), "deci"
HEADS, KEYS, CHANNELS = "attention.head_count", "attention.head_count_kv", "feed_forward_length"
# Before the names of these: what a layer has of what stands in the file; the rest is zeros, for llama.cpp's sake.
OWN = "secateur."

READ = {
    "context_length",
    "embedding_length",
    "block_count",
    HEADS,
    KEYS,
    CHANNELS,
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


def rounded(value: float) -> float:
    """A number that was stored in float32, as it was written: 1e-06 for 9.999999974752427e-07."""
    return float(str(np.float32(value)))


class Keys:
    """The keys of the file's architecture, without its name before them."""

    def __init__(self, header: GGUFHeader, of_family: frozenset[str]) -> None:
        self.header = header
        self.of_family = of_family
        self.prefix = f"{header.keys['general.architecture']}."
        layers = header.keys.get(f"{self.prefix}block_count")
        self.short: dict[str, Any] = {
            key.removeprefix(self.prefix): _one(value, layers)
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
        """What the file has of every layer, from lists or from one number for all; 0 of a half that is not there."""
        least = 0 if self.prefix == f"{WITHOUT_HALVES}." else 1
        heads = self._per_layer(HEADS, layers, least)
        key_value_heads = self._per_layer(KEYS, layers, least, heads)
        widths = [
            LayerWidths(*width)
            for width in zip(heads, key_value_heads, self._per_layer(CHANNELS, layers, least), strict=True)
        ]
        for layer, width in enumerate(widths):
            if not width.intermediate_size:
                raise self.wrong(
                    f"layer {layer} has no MLP ({self.prefix}{CHANNELS} 0), and what llama.cpp makes of such a layer "
                    "is not what the model does; take the original model's directory"
                )
            if bool(width.num_attention_heads) != bool(width.num_key_value_heads):
                raise self.wrong(
                    f"layer {layer} has {width.num_attention_heads} heads and {width.num_key_value_heads} key/value "
                    f"heads ({self.prefix}{KEYS}): attention that is one matrix is not read"
                )
        groups = {(width.num_attention_heads, width.num_key_value_heads) for width in widths} - {(0, 0)}
        if not groups:
            raise self.wrong("no layer has attention")
        if len({query / key for query, key in groups}) > 1 or any(query % key for query, key in groups):
            raise self.wrong(
                f"{self.prefix}{HEADS} is {shown(heads)} and head_count_kv {shown(key_value_heads)}, and "
                "secateur reads files where each layer has the same whole number of query heads to a key/value head"
            )
        return widths

    def own_widths(self, in_file: Sequence[LayerWidths]) -> list[LayerWidths]:
        """What the layers have of what the file has of them, where secateur has filled them up with zeros.

        Args:
            in_file: the widths in the file.
        """
        names = (HEADS, KEYS, CHANNELS)
        lists = [self.header.keys.get(OWN + name) for name in names]
        if all(found is None for found in lists):
            return list(in_file)
        for name, found in zip(names, lists, strict=True):
            if not isinstance(found, list) or len(found) != len(in_file):
                raise self.wrong(f"{OWN}{name} is {_stated(found)} and must be a list of {len(in_file)} numbers")
        widths = [LayerWidths(*numbers) for numbers in zip(*lists, strict=True)]
        least = 0 if self.prefix == f"{WITHOUT_HALVES}." else 1
        for layer, (width, most) in enumerate(zip(widths, in_file, strict=True)):
            group = most.num_attention_heads // max(most.num_key_value_heads, 1)
            fits = all(
                isinstance(own, int) and not isinstance(own, bool) and least <= own <= filled
                for own, filled in zip(astuple(width), astuple(most), strict=True)
            )
            if not fits or width.num_attention_heads != group * width.num_key_value_heads:
                raise self.wrong(
                    f"{OWN}{HEADS}, head_count_kv and {CHANNELS} say {shown(list(astuple(width)))} of layer {layer}, "
                    f"of which the file has {list(astuple(most))}"
                )
        if not any(width.num_attention_heads for width in widths):
            raise self.wrong(f"{OWN}{HEADS} leaves no layer its attention")
        return widths

    def _per_layer(self, key: str, layers: int, least: int, default: list[int] | None = None) -> list[int]:
        value = self.short.get(key, default)
        if not isinstance(value, list):
            return [self._checked(key, value, least=least)] * layers
        if len(value) != layers:
            raise self.wrong(f"{self.prefix}{key} has {len(value)} entries, for {layers} layers")
        if self.prefix.removesuffix(".") not in UNEVEN and len(set(value)) > 1:
            raise self.wrong(f"{self.prefix}{key} has entries that differ, which no graph of this architecture reads")
        return [self._checked(key, each, least=least) for each in value]

    def _checked(self, key: str, value: object, most: int = LARGEST, least: int = 1) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(
                f"{self.prefix}{key} is {_stated(value)} and must be a whole number from {least} to {most:,}"
            )
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


def _one(value: object, layers: object) -> object:
    """The number of a list that says the same for every layer."""
    if isinstance(value, list) and len(value) == layers and all(each == value[0] for each in value):
        return value[0]
    return value


def _equal_to_one_of(value: object, neutral: tuple[object, ...]) -> bool:
    if isinstance(value, (int, float)):
        return any(isinstance(each, (int, float)) and math.isclose(value, each, rel_tol=1e-6) for each in neutral)
    return value in neutral


def _stated(value: object) -> str:
    return "missing" if value is None else shown(value)
