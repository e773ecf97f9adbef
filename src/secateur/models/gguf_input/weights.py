"""The weights of a GGUF file under the names that Transformers has for them."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import ModelError
from secateur.models.gguf_input.header import GGUFHeader
from secateur.models.gguf_input.rope import FACTORS
from secateur.models.widths import LayerWidths, widths_in

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a tensor of the file goes.

    Attributes:
        parts: by their names in the model's state, the rows of the tensor that belong to each: one for most.
        shape: that the config asks for.
        heads: of queries or keys whose rows stand in llama.cpp's order; 0 for all else.
        optional: a bias that the file may leave out, and that is then zero.
    """

    parts: Mapping[str, int]
    shape: tuple[int, ...]
    heads: int = 0
    optional: bool = False


def place(name: str, *shape: int, heads: int = 0, optional: bool = False) -> Place:
    """The place of a tensor that is one weight of the model."""
    return Place({name: shape[0]}, shape, heads, optional)


def places(config: Any, architecture: str) -> dict[str, Place]:
    """By its name in the file, every tensor that a model of this config has."""
    hidden, rows = config.hidden_size, config.vocab_size
    found = {
        "token_embd.weight": place("model.embed_tokens.weight", rows, hidden),
        "output_norm.weight": place("model.norm.weight", hidden),
    }
    if not config.tie_word_embeddings:
        found["output.weight"] = place("lm_head.weight", rows, hidden)
    for layer, width in enumerate(widths_in(config)):
        in_layer = _in_layer(config, architecture, width, f"model.layers.{layer}.")
        found.update({f"blk.{layer}.{name}": where for name, where in in_layer.items()})
    return found


def _in_layer(config: Any, architecture: str, width: LayerWidths, path: str) -> dict[str, Place]:
    hidden, inner = config.hidden_size, width.intermediate_size
    queries, keys = (count * config.head_dim for count in (width.num_attention_heads, width.num_key_value_heads))
    projections = {
        "attn_q": ("self_attn.q_proj", queries, hidden),
        "attn_k": ("self_attn.k_proj", keys, hidden),
        "attn_v": ("self_attn.v_proj", keys, hidden),
        "attn_output": ("self_attn.o_proj", hidden, queries),
        "ffn_gate": ("mlp.gate_proj", inner, hidden),
        "ffn_up": ("mlp.up_proj", inner, hidden),
        "ffn_down": ("mlp.down_proj", hidden, inner),
    }
    norms = {"attn_norm": ("input_layernorm", hidden), "ffn_norm": ("post_attention_layernorm", hidden)}
    if "qwen3" in config.model_type:
        norms["attn_q_norm"] = ("self_attn.q_norm", config.head_dim)
        norms["attn_k_norm"] = ("self_attn.k_norm", config.head_dim)
    # These graphs rotate neighbours, and their files have the rows of queries and keys in that order.
    interleaved = architecture in ("llama", "deci")
    heads = {"attn_q": width.num_attention_heads, "attn_k": width.num_key_value_heads} if interleaved else {}
    found = {f"{short}.weight": place(f"{path}{name}.weight", size) for short, (name, size) in norms.items()}
    with_bias = _with_bias(config)
    for short, (name, outputs, inputs) in projections.items():
        order = heads.get(short, 0)
        found[f"{short}.weight"] = place(f"{path}{name}.weight", outputs, inputs, heads=order)
        if short in with_bias:
            found[f"{short}.bias"] = place(f"{path}{name}.bias", outputs, heads=order, optional=True)
    if architecture == "openelm":  # the three in one
        joined = [found.pop(f"attn_{which}.weight") for which in "qkv"]
        parts = {name: rows for part in joined for name, rows in part.parts.items()}
        found["attn_qkv.weight"] = Place(parts, (sum(parts.values()), hidden))
    return found


def _with_bias(config: Any) -> set[str]:
    """The projections that have biases in a model of this config."""
    found: set[str] = set()
    if "qwen2" in config.model_type:
        found |= {"attn_q", "attn_k", "attn_v"}
    elif config.attention_bias:
        found |= {"attn_q", "attn_k", "attn_v", "attn_output"}
    if getattr(config, "mlp_bias", False):
        found |= {"ffn_gate", "ffn_up", "ffn_down"}
    return found


def require_all_placed(header: GGUFHeader, config: Any) -> dict[str, Place]:
    """The place of every tensor of the file, checked by the header alone.

    Raises:
        ModelError: a tensor is missing, has another shape than the config asks for, or has no place in the family.
    """
    file = header.file
    expected = places(config, header.keys["general.architecture"])
    for name, tensor in header.tensors.items():
        if name == FACTORS:
            continue
        if name not in expected:
            raise ModelError(
                f"{file} holds the tensor {name}, which secateur does not carry in the family {config.model_type}: "
                "another model would come out; take the original model's directory"
            )
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{file} could not be loaded: {name} has the shape {tensor.shape} where the header asks for "
                f"{expected[name].shape}"
            )
    missing = [name for name, where in expected.items() if name not in header.tensors and not where.optional]
    if missing:
        raise ModelError(f"{file} could not be loaded: it lacks {len(missing)} tensors, {missing[0]} first")
    return expected


def read_weights(header: GGUFHeader, config: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's state in `dtype`: dequantised, in Transformers' order of rows, checked for NaN.

    Raises:
        ModelError: as `require_all_placed`, or a weight is NaN, infinite, or beyond what `dtype` holds.
    """
    expected = require_all_placed(header, config)
    state: dict[str, Tensor] = {}
    filled: list[str] = []
    for name, where in expected.items():
        if name in header.tensors:
            weights = _read(header, name, where.heads, dtype)
        else:
            weights = torch.zeros(where.shape, dtype=dtype)
            filled.append(name)
        state.update(zip(where.parts, weights.split(list(where.parts.values())), strict=True))
    if filled:
        logger.info(
            "%s leaves out %d biases that the family has, %s first: they are zeros", header.file, len(filled), filled[0]
        )
    return state


def _read(header: GGUFHeader, name: str, heads: int, dtype: torch.dtype) -> Tensor:
    with np.errstate(all="ignore"):  # what comes out is checked
        weights = header.read(name)
    tensor = torch.from_numpy(weights if weights.flags.writeable else weights.copy())
    low, high = (float(bound) for bound in tensor.aminmax())  # NaN where any is
    if not math.isfinite(low) or not math.isfinite(high):
        raise ModelError(f"{header.file} holds NaN or infinite values in {name}; restore it from its source")
    if max(-low, high) > torch.finfo(dtype).max:
        raise ModelError(f"{header.file} holds weights beyond what {dtype} holds in {name}; load it in float32")
    return (_in_halves(tensor, heads) if heads else tensor).to(dtype)


def _in_halves(weights: Tensor, heads: int) -> Tensor:
    """Rows (heads · head_dim, …) of which neighbours are rotated together, so that row i goes with i + head_dim / 2."""
    pairs = weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:])
    return pairs.transpose(1, 2).reshape(weights.shape)
