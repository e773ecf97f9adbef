"""The weights of a GGUF file under the names that Transformers has for them."""

import logging
import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import ModelError
from secateur.models.gguf_input.families import FileFamily, file_family
from secateur.models.gguf_input.header import GGUFHeader
from secateur.models.gguf_input.linear_attention import linear_attention
from secateur.models.gguf_input.place import Place, place
from secateur.models.gguf_input.rope import FACTORS, SHORT_AND_LONG
from secateur.models.widths import LayerWidths, widths_in

logger = logging.getLogger(__name__)


def places(config: Any, architecture: str) -> dict[str, Place]:
    """By its name in the file, every tensor that a model of this config has."""
    hidden, rows, family = config.hidden_size, config.vocab_size, file_family(config.model_type)
    found = {
        "token_embd.weight": place(f"{family.body}.{family.embeddings}.weight", rows, hidden),
        **_norm("output_norm", f"{family.body}.{family.final_norm}", hidden, family),
    }
    if not config.tie_word_embeddings:
        found["output.weight"] = place("lm_head.weight", rows, hidden)
    for layer, width in enumerate(widths_in(config)):
        in_layer = _in_layer(config, architecture, width, f"{family.body}.layers.{layer}.", _is_linear(config, layer))
        found.update({f"blk.{layer}.{name}": where for name, where in in_layer.items()})
    return found


def _norm(short: str, name: str, size: int, family: FileFamily) -> dict[str, Place]:
    found = {f"{short}.weight": place(f"{name}.weight", size, offset=family.norm_offset)}
    if family.norm_bias:
        found[f"{short}.bias"] = place(f"{name}.bias", size)
    return found


def _is_linear(config: Any, layer: int) -> bool:
    types = getattr(config, "layer_types", None)
    return types is not None and types[layer] == "linear_attention"


def _in_layer(config: Any, architecture: str, width: LayerWidths, path: str, linear: bool) -> dict[str, Place]:
    family = file_family(config.model_type)
    queries, keys = (count * config.head_dim for count in (width.num_attention_heads, width.num_key_value_heads))
    sizes = {
        "hidden": config.hidden_size,
        "inner": width.intermediate_size,
        "queries": queries,
        "keys": keys,
        "head": config.head_dim,
    }
    heads = {"attn_q": width.num_attention_heads, "attn_k": width.num_key_value_heads} if family.neighbours else {}
    found: dict[str, Place] = {}
    if linear:
        found = linear_attention(config, f"{path}linear_attn.")
    for short, (name, size) in family.norms.items():
        if linear and name.startswith("self_attn."):
            continue
        found |= _norm(short, f"{path}{name}", sizes[size], family)
    with_bias = _with_bias(config)
    for short, (name, outputs, inputs) in family.projections.items():
        if linear and name.startswith("self_attn."):
            continue
        rows, order = sum(sizes[each] for each in outputs), heads.get(short, 0)
        change = partial(_by_head, width.num_attention_heads) if short in family.by_head else None
        found[f"{short}.weight"] = place(f"{path}{name}.weight", rows, sizes[inputs], heads=order, change=change)
        if short in with_bias:
            found[f"{short}.bias"] = place(f"{path}{name}.bias", rows, heads=order, optional=True, change=change)
    if architecture == "openelm":  # the three in one
        joined = [found.pop(f"attn_{which}.weight") for which in "qkv"]
        parts = {name: rows for part in joined for name, rows in part.parts.items()}
        found["attn_qkv.weight"] = Place(parts, (sum(parts.values()), config.hidden_size))
    return found


def _with_bias(config: Any) -> set[str]:
    """The projections that have biases in a model of this config."""
    family = file_family(config.model_type)
    stated = (biased for setting, biased in family.may_have_bias.items() if getattr(config, setting))
    return {*family.biased, *(name for biased in stated for name in biased)}


def require_all_placed(header: GGUFHeader, config: Any) -> dict[str, Place]:
    """The place of every tensor of the file, checked by the header alone.

    Raises:
        ModelError: a tensor is missing, has another shape than the config asks for, or has no place in the family.
    """
    file = header.file
    expected = places(config, header.keys["general.architecture"])
    for name, tensor in header.tensors.items():
        rope = file_family(config.model_type).rope
        if (name == FACTORS and "llama3" in rope) or (name in SHORT_AND_LONG and "longrope" in rope):
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
            weights = _read(header, name, where, dtype)
        else:
            weights = torch.zeros(where.shape, dtype=dtype)
            filled.append(name)
        state.update(zip(where.parts, weights.split(list(where.parts.values())), strict=True))
    if filled:
        logger.info(
            "%s leaves out %d biases that the family has, %s first: they are zeros", header.file, len(filled), filled[0]
        )
    return state


def _read(header: GGUFHeader, name: str, where: Place, dtype: torch.dtype) -> Tensor:
    with np.errstate(all="ignore"):  # what comes out is checked
        weights = header.read(name)
    tensor = torch.from_numpy(weights if weights.flags.writeable else weights.copy())
    low, high = (float(bound) for bound in tensor.aminmax())  # NaN where any is
    if not math.isfinite(low) or not math.isfinite(high):
        raise ModelError(f"{header.file} holds NaN or infinite values in {name}; restore it from its source")
    if max(-low, high) > torch.finfo(dtype).max:
        raise ModelError(f"{header.file} holds weights beyond what {dtype} holds in {name}; load it in float32")
    if where.offset:
        tensor = tensor - where.offset
    if where.change:
        tensor = where.change(tensor)
        if not tensor.isfinite().all():
            raise ModelError(f"{header.file} holds values in {name} of which the model's weights cannot be made")
    return (_in_halves(tensor, where.heads) if where.heads else tensor).to(dtype)


def _by_head(heads: int, weights: Tensor) -> Tensor:
    """Rows (heads · 3 · head_dim, …): of all queries, keys and values those of each head together."""
    return weights.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)


def _in_halves(weights: Tensor, heads: int) -> Tensor:
    """Rows (heads · head_dim, …) of which neighbours are rotated together, so that row i goes with i + head_dim / 2."""
    pairs = weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:])
    return pairs.transpose(1, 2).reshape(weights.shape)
