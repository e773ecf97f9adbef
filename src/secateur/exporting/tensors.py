"""A model's weights under llama.cpp's names, in its order of rows and its number formats."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.exporting.folding import factors_of
from secateur.exporting.ggml import WITHOUT_LIBRARY, quantised
from secateur.exporting.layout import Layout, embeddings, has_tied_embeddings
from secateur.exporting.linear_attention import changes_in, order_of_values
from secateur.exporting.projections import Rows, filled, tensors_of, whole_norm_scale
from secateur.models import adapter_of
from secateur.models.halves import PARTS

QUANT = gguf.GGMLQuantizationType
TENSOR = gguf.MODEL_TENSOR


def name_of(tensor: gguf.MODEL_TENSOR) -> str:
    """The name of a matrix that is in no layer."""
    return gguf.TENSOR_NAMES[tensor] + ".weight"


ROPE_FACTORS = tuple(
    name_of(tensor) for tensor in (TENSOR.ROPE_FREQS, TENSOR.ROPE_FACTORS_SHORT, TENSOR.ROPE_FACTORS_LONG)
)


@dataclass(frozen=True)
class Entry:
    """A tensor of the file.

    Attributes:
        name: llama.cpp's.
        shape: of the tensor, rows first.
        make: gives it in float32.
        weight: of the model, whose inputs are multiplied by it; None where there are none.
        input_order: their order in the file, indices; None where they stand as in the model.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    weight: Tensor | None = None
    input_order: Tensor | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def entries(model: PreTrainedModel, layout: Layout) -> Iterator[Entry]:
    """All tensors of the file, none of them made yet.

    Raises:
        ModelError: a weight has no place in the architecture.
    """
    graph, tied = layout.graph, has_tied_embeddings(model)
    names = gguf.get_tensor_name_map(graph.architecture, len(layout.widths))
    yield from _rope_factors(layout)
    changes, orders = _changes(model, layout), _input_orders(model)
    in_projections = _weights_of_projections(model)
    for path, weight in model.named_parameters():
        if id(weight) in in_projections:
            continue
        # gguf's table has the name from before Qwen3.5.
        known = path.replace(".dt_bias", ".dt_proj.bias")
        name = names.get_name(known, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"llama.cpp's architecture {graph.name} has no {path}")
        shape, change = changes.get(id(weight), (tuple(weight.shape), _float))
        yield Entry(name, shape, partial(change, weight), weight, orders.get(id(weight)))
    yield from _projections(model, layout)
    yield from _nothing(model, layout)
    if tied and graph.own_head:
        head = embeddings(model)
        yield Entry(name_of(TENSOR.OUTPUT), tuple(head.shape), partial(_float, head))


def _rope_factors(layout: Layout) -> Iterator[Entry]:
    rope = layout.rope
    short = TENSOR.ROPE_FREQS if rope.long_factors is None else TENSOR.ROPE_FACTORS_SHORT
    for tensor, factors in ((short, rope.factors), (TENSOR.ROPE_FACTORS_LONG, rope.long_factors)):
        if factors is not None:
            yield Entry(name_of(tensor), tuple(factors.shape), partial(_float, factors))


def _projections(model: PreTrainedModel, layout: Layout) -> Iterator[Entry]:
    adapter = adapter_of(model)
    factors = factors_of(model.config, layout, has_tied_embeddings(model))
    for index, (layer, width) in enumerate(zip(adapter.layers(model), layout.widths, strict=True)):
        for part in PARTS:
            half = adapter.half(layer, part)
            if half.names.divisible and not half.is_absent:
                for name, parts in tensors_of(half, width, model.config, layout, factors):
                    shape = (sum(rows.size for rows in parts), *parts[0].shape[1:])
                    yield Entry(f"blk.{index}.{name}", shape, partial(_joined, parts), parts[0].weight)


def _nothing(model: PreTrainedModel, layout: Layout) -> Iterator[Entry]:
    """Halves of zeros where the graph wants one and the layer has none."""
    adapter, hidden = adapter_of(model), model.config.hidden_size
    for index, (layer, width) in enumerate(zip(adapter.layers(model), layout.widths, strict=True)):
        query, key = (heads * layout.head_dim for heads in (width.num_attention_heads, width.num_key_value_heads))
        channels = width.intermediate_size
        attention = {"attn_q": (query, hidden), "attn_k": (key, hidden), "attn_v": (key, hidden)}
        mlp = {"ffn_gate": (channels, hidden), "ffn_up": (channels, hidden), "ffn_down": (hidden, channels)}
        for part, shapes in (
            (PARTS[0], {"attn_norm": (hidden,), **attention, "attn_output": (hidden, query)}),
            (PARTS[1], {"ffn_norm": (hidden,), **mlp}),
        ):
            if adapter.half(layer, part).is_absent and all(map(all, shapes.values())):
                for name, shape in shapes.items():
                    yield Entry(f"blk.{index}.{name}.weight", shape, partial(torch.zeros, shape))


def _weights_of_projections(model: PreTrainedModel) -> set[int]:
    """The identities of the weights that `_projections` has."""
    adapter = adapter_of(model)
    halves = (adapter.half(layer, part) for layer in adapter.layers(model) for part in PARTS)
    linears = (linear for half in halves if half.names.divisible for linear in half.linears)
    return {id(weight) for linear in linears for weight in linear.parameters()}


def encoded(entry: Entry, kind: gguf.GGMLQuantizationType, importance: np.ndarray | None = None) -> np.ndarray:
    """The bytes of a tensor, (rows, bytes of a row).

    Args:
        kind: its number format.
        importance: how much an error in each column weighs, (columns,) float32.

    Raises:
        ModelError: a weight is beyond what float16 holds.
    """
    tensor = entry.make()
    if kind is QUANT.F16 and float(tensor.abs().max()) > torch.finfo(torch.float16).max:
        raise ModelError(f"{entry.name} holds weights beyond float16's 65504; export with dtype bf16")
    weights = tensor.contiguous().numpy()
    if kind in WITHOUT_LIBRARY:
        return gguf.quants.quantize(weights, kind).view(np.uint8)
    return quantised(weights, kind, importance)


Changes = dict[int, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]]


def _changes(model: PreTrainedModel, layout: Layout) -> Changes:
    """By the identity of a weight that does not go into the file as it is: its shape there, and what makes it."""
    adapter, graph = adapter_of(model), layout.graph
    factors = factors_of(model.config, layout, has_tied_embeddings(model))
    changes: Changes = {}

    def change(weight: Tensor, offset: float = 0.0, factor: float = 1.0, rows: int | None = None) -> None:
        shape = (rows or weight.shape[0], *weight.shape[1:])
        changes[id(weight)] = (shape, partial(_changed, shape=shape, offset=offset, factor=factor))

    if graph.norm_offset:
        for path, weight in model.named_parameters():
            if path.endswith("norm.weight") and "linear_attn" not in path:
                change(weight, offset=graph.norm_offset)
    if factors.embedding != 1.0:
        change(embeddings(model), factor=factors.embedding)
    if factors.final_norm != 1.0:
        change(cast(Tensor, adapter.final_norm(model).weight), factor=factors.final_norm)
    for layer, width in zip(adapter.layers(model), layout.widths, strict=True):
        half = adapter.half(layer, "attention")
        if half.is_absent:
            continue
        if not half.names.divisible:
            for own, shape, made in changes_in(half.mixer, model.config):
                changes[id(own)] = shape, partial(_made, made)
            continue
        whole = half.whole_norms()
        for norm, _, per_unit in whole:
            rows = width.num_key_value_heads * per_unit
            change(cast(Tensor, norm.weight), factor=1 / whole_norm_scale(half, width), rows=rows)
        if factors.query != 1.0 and not whole and hasattr(half.mixer, "q_norm"):
            change(half.mixer.get_parameter("q_norm.weight"), offset=graph.norm_offset, factor=factors.query)
    return changes


def _input_orders(model: PreTrainedModel) -> dict[int, Tensor]:
    """By the identity of a weight whose columns stand in another order in the file, that order."""
    adapter = adapter_of(model)
    halves = (adapter.half(layer, "attention") for layer in adapter.layers(model))
    linear = (half for half in halves if not half.is_absent and not half.names.divisible)
    return {id(half.output.weight): order_of_values(model.config) for half in linear}


def _changed(weight: Tensor, shape: tuple[int, ...], offset: float, factor: float) -> Tensor:
    return filled((_float(weight) + offset) * factor, shape)


def _made(made: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    return made(_float(weight))


def _joined(parts: list[Rows]) -> Tensor:
    return torch.cat([rows.make() for rows in parts])


def _float(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.float32)
