"""Rotary positions of a GGUF file, as the `rope_parameters` of a config.

llama.cpp has the scaling in keys (`linear`, `yarn`), Llama 3's in a tensor that says what each frequency is divided by.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from secateur.errors import ModelError
from secateur.models.gguf_input.header import GGUFHeader
from secateur.models.json_file import shown
from secateur.models.quiet import quiet

logger = logging.getLogger(__name__)

FACTORS = "rope_freqs.weight"
SHORT_AND_LONG = ("rope_factors_short.weight", "rope_factors_long.weight")
SCALING = "rope.scaling."
ROPE_KEYS = (
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_log_multiplier",
)
# What yarn's fields are without a key; -1 is llama.cpp's "as usual". Its graphs of these families take no others: a
# file that says so is run otherwise than it says, and which of the two the model was made for cannot be told.
YARN_USUAL = {
    "yarn_beta_fast": (32.0, -1.0),
    "yarn_beta_slow": (1.0, -1.0),
    "yarn_ext_factor": (1.0, -1.0),
    "yarn_attn_factor": (1.0, -1.0),
    "yarn_log_multiplier": (0.0,),
}
SAME = 1e-4


def rope_parameters(keys: Mapping[str, Any], header: GGUFHeader, head_dim: int, longest: int) -> dict[str, Any]:
    """What Transformers computes as llama.cpp does from these keys.

    Args:
        keys: the architecture's, without its name before them.
        header: the file's, for the tensor of Llama 3's scaling.
        head_dim: the size of a head.
        longest: positions that the model was made for.

    Raises:
        ModelError: a number has no sensible value, or Transformers has no such scaling.
    """
    base = _number(header, keys, "rope.freq_base", 10000.0)
    # Before there was a type, linear scaling was one key.
    factor = _number(header, keys, "rope.scaling.factor", _number(header, keys, "rope.scale_linear", 1.0))
    kind = keys.get("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise _not_carried(header, "rope.scaling.type", kind)
    for field, usual in YARN_USUAL.items():
        value = keys.get(SCALING + field, usual[0])
        if value not in usual:
            raise _not_carried(header, SCALING + field, value)
    attention_factor = _number(header, keys, "rope.scaling.attn_factor", 1.0)
    if attention_factor != 1.0 and kind != "yarn":
        raise _not_carried(header, "rope.scaling.attn_factor", attention_factor)
    plain = {"rope_type": "default", "rope_theta": base}
    if kind == "none":
        factor = 1.0
    if FACTORS in header.tensors:
        if factor != 1.0:
            raise _not_carried(header, "rope.scaling.factor", factor, f" beside the tensor {FACTORS}")
        return _by_factors(header, plain, head_dim, longest)
    if kind == "yarn":
        return _yarn(header, keys, plain, (factor, attention_factor), longest)
    return plain if factor == 1.0 else {**plain, "rope_type": "linear", "factor": factor}


def longrope(keys: Mapping[str, Any], header: GGUFHeader, rotated: int) -> dict[str, Any]:
    """Phi 3's factors for each frequency, up to the original length and beyond it.

    Args:
        keys: the architecture's, without its name before them.
        header: the file's, which has the tensors of the factors.
        rotated: values of a head that are rotated.

    Raises:
        ModelError: a number has no sensible value, or a tensor is missing or has another shape.
    """
    original = keys.get("rope.scaling.original_context_length")
    if isinstance(original, bool) or not isinstance(original, int) or original < 1:
        raise _not_carried(header, "rope.scaling.original_context_length", original)
    short, long = (_factors_in(header, name, rotated) for name in SHORT_AND_LONG)
    return {
        "rope_type": "longrope",
        "rope_theta": _number(header, keys, "rope.freq_base", 10000.0),
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": original,
        "attention_factor": _number(header, keys, "rope.scaling.attn_factor", 1.0),
    }


def _factors_in(header: GGUFHeader, name: str, rotated: int) -> list[float]:
    tensor = header.tensors.get(name)
    if tensor is None or tensor.shape != (rotated // 2,):
        has = "no such tensor" if tensor is None else f"the shape {tensor.shape}"
        raise ModelError(f"{header.file} could not be loaded: {name} has {has} where ({rotated // 2},) is asked for")
    factors = header.read(name)
    if not np.isfinite(factors).all() or factors.min() <= 0:
        raise ModelError(f"{header.file} could not be loaded: {name} holds values that are no factors")
    return [float(str(np.float32(factor))) for factor in factors]


def _yarn(
    header: GGUFHeader, keys: Mapping[str, Any], plain: dict[str, Any], factors: tuple[float, float], longest: int
) -> dict[str, Any]:
    factor, attention_factor = factors
    original = keys.get("rope.scaling.original_context_length", longest)
    if isinstance(original, bool) or not isinstance(original, int) or original < 1:
        raise _not_carried(header, "rope.scaling.original_context_length", original)
    found: dict[str, Any] = {
        **plain,
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
    }
    if attention_factor != 1.0:
        found["attention_factor"] = attention_factor * (0.1 * math.log(factor) + 1 if factor > 1 else 1.0)
    return found


def _by_factors(header: GGUFHeader, plain: dict[str, Any], head_dim: int, longest: int) -> dict[str, Any]:
    """The scaling whose frequencies are those of the base, divided by the file's factors."""
    if header.tensors[FACTORS].shape != (head_dim // 2,):
        raise ModelError(
            f"{header.file} could not be loaded: {FACTORS} has the shape {header.tensors[FACTORS].shape} where heads "
            f"of {head_dim} ask for ({head_dim // 2},)"
        )
    factors = header.read(FACTORS).astype(np.float64)
    if not np.isfinite(factors).all() or factors.min() <= 0:
        raise ModelError(f"{header.file} could not be loaded: {FACTORS} holds values that are no factors")
    if np.allclose(factors, factors[0], rtol=SAME):
        factor = round(float(factors[0]), 6)
        return plain if factor == 1.0 else {**plain, "rope_type": "linear", "factor": factor}
    for found in _llama3(factors, plain, head_dim, longest):
        if np.allclose(_frequencies(found, head_dim) * factors, _frequencies(plain, head_dim), rtol=SAME, atol=0):
            logger.info(
                "%s scales rotary positions by the tensor %s, which Llama 3's rule with factor %g and %d positions "
                "gives: put into the config",
                header.file,
                FACTORS,
                found["factor"],
                found["original_max_position_embeddings"],
            )
            return found
    raise ModelError(
        f"{header.file} scales rotary positions by the tensor {FACTORS}, and by another rule than Llama 3's, which "
        "secateur does not carry; take the original model's directory"
    )


def _llama3(factors: np.ndarray, plain: dict[str, Any], head_dim: int, longest: int) -> Iterator[dict[str, Any]]:
    """Parameters of Llama 3's rule that may give these factors, the usual ones first.

    The rule divides a frequency f by 1 where s(f) ≥ 1, by `factor` where s(f) ≤ 0 and between by 1 / (s + (1 - s) /
    factor), with s(f) = (original · f / 2π - low) / (high - low). With low = 1, which loses nothing, two frequencies
    that lie between give `original` and `high`.
    """
    factor = float(np.float32(factors.max()))
    frequencies = _frequencies(plain, head_dim) / (2 * math.pi)
    smooth = (1 / factors - 1 / factor) / (1 - 1 / factor)
    between = np.flatnonzero((smooth > SAME) & (smooth < 1 - SAME))
    rule = {**plain, "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0}
    lengths = [8192, round(longest / factor), longest]
    if len(between):
        # s is linear in the frequency: with the usual high = 4 one point is enough.
        first = between[0]
        lengths.append(round((3 * smooth[first] + 1) / frequencies[first]))
    for length in lengths:
        if length >= 1:
            yield {**rule, "high_freq_factor": 4.0, "original_max_position_embeddings": length}
    if len(between) > 1:
        slope, offset = np.polyfit(frequencies[between], smooth[between], 1)
        if offset < 0:
            yield from _with_length(rule, -slope / offset, 1 - 1 / offset)
    if not len(between):
        unscaled, scaled = frequencies[smooth >= 0.5].min(), frequencies[smooth < 0.5].max()
        yield from _with_length(rule, 1 / scaled, unscaled / scaled)


def _with_length(rule: dict[str, Any], length: float, high: float) -> Iterator[dict[str, Any]]:
    """The length must be whole; what rounding it changes, both ends of the rule take."""
    whole = max(1, round(length))
    stretch = whole / length
    if high > 1:
        yield {
            **rule,
            "low_freq_factor": stretch,
            "high_freq_factor": high * stretch,
            "original_max_position_embeddings": whole,
        }


def _frequencies(parameters: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """Of each pair of a head's values, (head_dim / 2,), as Transformers computes them."""
    plain = 1.0 / parameters["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    if parameters["rope_type"] == "default":
        return plain
    with quiet():
        config = LlamaConfig(
            head_dim=head_dim, hidden_size=head_dim, num_attention_heads=1, rope_parameters=dict(parameters)
        )
        scaled, _ = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))
    return scaled.double().numpy()


def _number(header: GGUFHeader, keys: Mapping[str, Any], key: str, default: float) -> float:
    value = keys.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        if value == 0 and key != "rope.freq_base":  # llama.cpp takes 0 as "not set"
            return default
        raise _not_carried(header, key, value)
    return float(str(np.float32(value)))


def _not_carried(header: GGUFHeader, key: str, value: object, beside: str = "") -> ModelError:
    return ModelError(
        f"{header.file} sets {header.keys['general.architecture']}.{key} to {shown(value)}{beside}, which secateur "
        "does not carry: another model would come out; take the original model's directory"
    )
