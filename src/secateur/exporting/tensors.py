"""A model's weights under llama.cpp's names, in its order of rows and its number formats."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import gguf
import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.exporting.config import NumberFormat
from secateur.exporting.layout import Layout
from secateur.exporting.rope import rope_of
from secateur.models import adapter_of

QUANT = gguf.GGMLQuantizationType
ROPE_FACTORS = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FREQS] + ".weight"
FORMATS: dict[NumberFormat, gguf.GGMLQuantizationType] = {"f16": QUANT.F16, "bf16": QUANT.BF16, "q8_0": QUANT.Q8_0}


@dataclass(frozen=True)
class Entry:
    """A tensor of the file.

    Attributes:
        name: llama.cpp's.
        shape: of the tensor, rows first.
        make: gives it in float32.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]


def entries(model: PreTrainedModel, layout: Layout) -> Iterator[Entry]:
    """All tensors of the file, none of them made yet.

    Raises:
        ModelError: a weight has no place in the architecture.
    """
    names = gguf.get_tensor_name_map(layout.architecture, len(layout.widths))
    changes = _changes(model, layout)
    fused = _fused(model) if layout.fused else {}
    inside_fused = {id(weight) for weights in fused.values() for weight in weights}
    factors = rope_of(model.config).factors
    if factors is not None:
        yield Entry(ROPE_FACTORS, tuple(factors.shape), partial(_float, factors))
    for path, weight in model.named_parameters():
        if id(weight) in inside_fused:
            continue
        name = names.get_name(path, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"llama.cpp's architecture {gguf.MODEL_ARCH_NAMES[layout.architecture]} has no {path}")
        shape, change = changes.get(id(weight), (tuple(weight.shape), _float))
        yield Entry(name, shape, partial(change, weight))
    for index, weights in fused.items():
        rows, columns = sum(weight.shape[0] for weight in weights), weights[0].shape[1]
        name = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ATTN_QKV].format(bid=index) + ".weight"
        yield Entry(name, (rows, columns), partial(_joined, weights))


def format_of(shape: tuple[int, ...], dtype: NumberFormat) -> gguf.GGMLQuantizationType:
    """The number format of a tensor: vectors stay float32, and rows that blocks do not divide float16."""
    if len(shape) == 1:
        return QUANT.F32
    wanted = FORMATS[dtype]
    return QUANT.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] else wanted


def encoded(entry: Entry, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """The bytes of a tensor, (rows, bytes of a row).

    Raises:
        ModelError: a weight is beyond what float16 holds.
    """
    tensor = entry.make()
    if kind is QUANT.F16 and float(tensor.abs().max()) > torch.finfo(torch.float16).max:
        raise ModelError(f"{entry.name} holds weights beyond float16's 65504; export with dtype bf16")
    return gguf.quants.quantize(tensor.contiguous().numpy(), kind).view(np.uint8)


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Weights of a projection of queries or keys, (heads · head_dim, …), in the order of llama.cpp's Llama.

    Of each head, the rows that Transformers rotates together, i and i + head_dim / 2, become neighbours.
    """
    rows = _float(weight)
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


Changes = dict[int, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]]


def _changes(model: PreTrainedModel, layout: Layout) -> Changes:
    """By the identity of a weight that does not go into the file as it is: its shape there, and what makes it."""
    adapter = adapter_of(model)
    changes: Changes = {}
    for layer, width in zip(adapter.layers(model), layout.widths, strict=True):
        query, key, value, output = adapter.half(layer, "attention").linears
        gate, up, down = adapter.half(layer, "mlp").linears
        heads = {query: width.num_attention_heads, key: width.num_key_value_heads}
        if layout.interleaved:
            for linear, count in heads.items():
                for weight in linear.parameters():
                    changes[id(weight)] = (tuple(weight.shape), partial(interleaved, heads=count))
        if layout.filled:
            query_rows, key_rows = (count * layout.head_dim for count in heads.values())
            sizes = {
                query: (query_rows, query.in_features),
                key: (key_rows, key.in_features),
                value: (key_rows, value.in_features),
                output: (output.out_features, query_rows),
                gate: (width.intermediate_size, gate.in_features),
                up: (width.intermediate_size, up.in_features),
                down: (down.out_features, width.intermediate_size),
            }
            for linear, (rows, columns) in sizes.items():
                changes[id(linear.weight)] = ((rows, columns), partial(_filled, rows=rows, columns=columns))
    return changes


def _filled(weight: Tensor, rows: int, columns: int) -> Tensor:
    """Zeros below and to the right: heads and channels that add nothing."""
    tensor = _float(weight)
    return nn.functional.pad(tensor, (0, columns - tensor.shape[1], 0, rows - tensor.shape[0]))


def _fused(model: PreTrainedModel) -> dict[int, list[Tensor]]:
    """By layer, the weights of queries, keys and values, which one matrix holds."""
    adapter = adapter_of(model)
    return {
        index: [linear.weight for linear in adapter.half(layer, "attention").linears[:3]]
        for index, layer in enumerate(adapter.layers(model))
    }


def _joined(weights: list[Tensor]) -> Tensor:
    return torch.cat([_float(weight) for weight in weights])


def _float(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.float32)
