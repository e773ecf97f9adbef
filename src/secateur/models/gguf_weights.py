"""The weights of a GGUF file under the names that Transformers has for them."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import ModelError
from secateur.models.gguf_header import GGUFHeader
from secateur.models.gguf_rope import FACTORS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a tensor of the file goes.

    Attributes:
        name: in the model's state.
        shape: that the config asks for.
        heads: of queries or keys whose rows stand in llama.cpp's order; 0 for all else.
        optional: a bias that the file may leave out, and that is then zero.
    """

    name: str
    shape: tuple[int, ...]
    heads: int = 0
    optional: bool = False


def places(config: Any) -> dict[str, Place]:
    """By its name in the file, every tensor that a model of this config has."""
    hidden, inner, rows = config.hidden_size, config.intermediate_size, config.vocab_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    # Llama's graph rotates neighbours, and its files have the rows of queries and keys in that order.
    interleaved = config.model_type == "llama"
    heads = {"q": config.num_attention_heads * interleaved, "k": config.num_key_value_heads * interleaved}
    found = {"token_embd.weight": Place("model.embed_tokens.weight", (rows, hidden))}
    found["output_norm.weight"] = Place("model.norm.weight", (hidden,))
    if not config.tie_word_embeddings:
        found["output.weight"] = Place("lm_head.weight", (rows, hidden))
    with_bias = _with_bias(config)
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
    if config.model_type == "qwen3":
        norms["attn_q_norm"] = ("self_attn.q_norm", config.head_dim)
        norms["attn_k_norm"] = ("self_attn.k_norm", config.head_dim)
    for layer in range(config.num_hidden_layers):
        block, path = f"blk.{layer}.", f"model.layers.{layer}."
        for short, (name, width) in norms.items():
            found[f"{block}{short}.weight"] = Place(f"{path}{name}.weight", (width,))
        for short, (name, outputs, inputs) in projections.items():
            order = heads.get(short.removeprefix("attn_"), 0)
            found[f"{block}{short}.weight"] = Place(f"{path}{name}.weight", (outputs, inputs), order)
            if short in with_bias:
                found[f"{block}{short}.bias"] = Place(f"{path}{name}.bias", (outputs,), order, optional=True)
    return found


def _with_bias(config: Any) -> set[str]:
    """The projections that have biases in a model of this config."""
    found: set[str] = set()
    if config.model_type == "qwen2":
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
    file, layers = header.file, config.num_hidden_layers
    present = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    if layers > len(present):  # before a list is made of as many as the key claims
        raise ModelError(
            f"{file} could not be loaded: its header speaks of {layers:,} layers and it has {len(present):,}"
        )
    expected = places(config)
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
    missing = [name for name, place in expected.items() if name not in header.tensors and not place.optional]
    if missing:
        raise ModelError(f"{file} could not be loaded: it lacks {len(missing)} tensors, {missing[0]} first")
    return expected


def read_weights(header: GGUFHeader, config: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's state in `dtype`: dequantised, in Transformers' order of rows, checked for NaN.

    Raises:
        ModelError: as `require_all_placed`, or a weight is NaN, infinite, or beyond what `dtype` holds.
    """
    expected = require_all_placed(header, config)
    state, filled = {}, []
    for name, place in expected.items():
        if name in header.tensors:
            state[place.name] = _read(header, name, place, dtype)
        else:
            state[place.name] = torch.zeros(place.shape, dtype=dtype)
            filled.append(name)
    if filled:
        logger.info(
            "%s leaves out %d biases that the family has, %s first: they are zeros", header.file, len(filled), filled[0]
        )
    return state


def _read(header: GGUFHeader, name: str, place: Place, dtype: torch.dtype) -> Tensor:
    with np.errstate(all="ignore"):  # what comes out is checked
        weights = header.read(name)
    if not np.isfinite(weights).all():
        raise ModelError(f"{header.file} holds NaN or infinite values in {name}; restore it from its source")
    tensor = torch.from_numpy(np.array(weights, np.float32))
    if float(tensor.abs().max()) > torch.finfo(dtype).max:
        raise ModelError(f"{header.file} holds weights beyond what {dtype} holds in {name}; load it in float32")
    return (_in_halves(tensor, place.heads) if place.heads else tensor).to(dtype)


def _in_halves(weights: Tensor, heads: int) -> Tensor:
    """Rows (heads · head_dim, …) of which neighbours are rotated together, so that row i goes with i + head_dim / 2."""
    pairs = weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:])
    return pairs.transpose(1, 2).reshape(weights.shape)
