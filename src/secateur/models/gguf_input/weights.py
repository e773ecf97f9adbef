"""The weights of a GGUF file under the names that Transformers has for them."""

import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import ModelError
from secateur.models.adapters import adapter_for
from secateur.models.gguf_input.families import FileFamily, file_family
from secateur.models.gguf_input.header import GGUFHeader
from secateur.models.gguf_input.keys import OWN, Keys
from secateur.models.gguf_input.linear_attention import linear_attention
from secateur.models.gguf_input.place import Place, place
from secateur.models.gguf_input.rope import FACTORS, SHORT_AND_LONG
from secateur.models.widths import LayerWidths, skipped, skipped_modules, widths_in

logger = logging.getLogger(__name__)

NOT_NORMED = ("attn_v",)  # of the attention's projections, where the others are normed over all heads


def places(config: Any, widths: Sequence[LayerWidths], architecture: str) -> dict[str, Place]:
    """By its name in the file, every tensor that a model of this config has where its layers have these widths."""
    hidden, rows, family = config.hidden_size, config.vocab_size, file_family(config.model_type)
    found = {
        "token_embd.weight": place(f"{family.body}.{family.embeddings}.weight", rows, hidden),
        **_norm("output_norm", f"{family.body}.{family.final_norm}", hidden, family),
    }
    if not config.tie_word_embeddings:
        found["output.weight"] = place("lm_head.weight", rows, hidden)
    for layer, width in enumerate(widths):
        in_layer = _in_layer(config, architecture, width, f"{family.body}.layers.{layer}.", _is_linear(config, layer))
        found.update({f"blk.{layer}.{name}": where for name, where in in_layer.items()})
    return found


def _norm(short: str, name: str, size: int, family: FileFamily, power: int = 0) -> dict[str, Place]:
    found = {f"{short}.weight": place(f"{name}.weight", size, offset=family.norm_offset, power=power)}
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
        "gated queries": 2 * queries,
        "keys": keys,
        "head": config.head_dim,
    }
    heads = {"attn_q": width.num_attention_heads, "attn_k": width.num_key_value_heads} if family.neighbours else {}
    modules = skipped_modules(adapter_for(config.model_type))
    absent = {name for part in skipped(width) for name in modules[part]} | ({"self_attn"} if linear else set())
    found = linear_attention(config, f"{path}linear_attn.") if linear else {}
    over_heads = {"queries", "keys"} & {size for _, size in family.norms.values()}
    for short, (name, size) in family.norms.items():
        if name.split(".")[0] not in absent:
            found |= _norm(short, f"{path}{name}", sizes[size], family, power=1 if size in over_heads else 0)
    with_bias = _with_bias(config)
    for short, (name, outputs, inputs) in family.projections.items():
        if name.split(".")[0] in absent:
            continue
        blocks = tuple(sizes[each] for each in outputs)
        rows, change = sum(blocks), None
        if short in family.by_head:
            change, blocks = partial(_by_head, width.num_attention_heads), (rows,)
        alike: dict[str, Any] = {
            "heads": heads.get(short, 0),
            "change": change,
            "blocks": () if outputs == ("hidden",) else blocks,
            "power": -1 if over_heads & set(outputs) and short not in NOT_NORMED else 0,
        }
        found[f"{short}.weight"] = Place({f"{path}{name}.weight": rows}, (rows, sizes[inputs]), **alike)
        if short in with_bias:
            found[f"{short}.bias"] = Place({f"{path}{name}.bias": rows}, (rows,), optional=True, **alike)
    if architecture == "openelm" and "attn_q.weight" in found:  # the three in one
        joined = [found.pop(f"attn_{which}.weight") for which in "qkv"]
        parts = {name: rows for part in joined for name, rows in part.parts.items()}
        rows = sum(parts.values())
        found["attn_qkv.weight"] = Place(parts, (rows, config.hidden_size), blocks=tuple(parts.values()))
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
    file, family = header.file, file_family(config.model_type)
    in_file = Keys(header, family.keys).widths(config.num_hidden_layers)
    expected = places(config, in_file, header.keys["general.architecture"])
    for name, tensor in header.tensors.items():
        if (name == FACTORS and "llama3" in family.rope) or (name in SHORT_AND_LONG and "longrope" in family.rope):
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
    own = places(config, widths_in(config), header.keys["general.architecture"])
    state: dict[str, Tensor] = {}
    filled: list[str] = []
    for name, where in expected.items():
        there = own.get(name)
        if name not in header.tensors:
            if there is not None:
                state.update((part, torch.zeros(rows, dtype=dtype)) for part, rows in there.parts.items())
                filled.append(name)
            continue
        weights = _without_zeros(header, name, _read(header, name, where, dtype), where, there)
        if there is not None:
            state.update(zip(there.parts, weights.split(list(there.parts.values())), strict=True))
    if filled:
        logger.info(
            "%s leaves out %d biases that the family has, %s first: they are zeros", header.file, len(filled), filled[0]
        )
    return state


def _without_zeros(header: GGUFHeader, name: str, weights: Tensor, where: Place, there: Place | None) -> Tensor:
    """What the model has of a tensor that the file may have filled up with zeros.

    Args:
        where: its place by the widths in the file.
        there: by the model's own; None where its half is one that the layer does not have.

    Raises:
        ModelError: something else than zeros would be left out.
    """
    own: Tensor | None = weights
    if there is None:
        own = None if (where.blocks or name.endswith(".bias")) and weights.any() else weights[:0]
    elif there.shape != where.shape:
        own = where.cut_down(weights, there)
    if own is None:
        raise ModelError(
            f"{header.file} could not be loaded: by its keys {OWN}… it is filled up with zeros, and {name} has other "
            "numbers in their place"
        )
    return own


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
