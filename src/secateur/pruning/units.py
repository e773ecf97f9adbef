"""The units that leave a layer: GQA groups (one key/value head with its query heads) and MLP channels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.models.adapters import PARTS, Adapter, Part, adapter_of
from secateur.models.widths import declared_widths, keep_columns, keep_rows


@dataclass(frozen=True)
class PartShape:
    """One half of a layer as a row of units.

    Attributes:
        units: how many units it has.
        block_size: inputs of its output projection that belong to one unit.
        unit_parameters: parameters that leave with one unit.
    """

    units: int
    block_size: int
    unit_parameters: int


def part_shape(adapter: Adapter, layer: nn.Module, part: Part) -> PartShape:
    """The units of a layer's attention (GQA groups) or MLP (channels)."""
    if part == "attention":
        query, key, value, output = adapter.attention_linears(layer)
        units = key.out_features // adapter.head_dim(layer)
        block_size = query.out_features // units
        inputs = [query, key, value]
    else:
        *inputs, output = adapter.mlp_linears(layer)
        units, block_size = output.in_features, 1
    parameters = output.weight.numel() + sum(
        linear.weight.numel() + (0 if linear.bias is None else linear.bias.numel()) for linear in inputs
    )
    return PartShape(units, block_size, parameters // units)


def part_shapes(model: PreTrainedModel) -> list[dict[Part, PartShape]]:
    """The units of every layer's attention and MLP."""
    adapter = adapter_of(model)
    return [{part: part_shape(adapter, layer, part) for part in PARTS} for layer in adapter.layers(model)]


def are_units(indices: Tensor, count: int) -> bool:
    """Whether a tensor has indices of units, each at most once, where there are so many."""
    if indices.dim() != 1 or indices.is_floating_point():
        return False
    return indices.numel() == 0 or (
        int(indices.min()) >= 0 and int(indices.max()) < count and len(indices.unique()) == len(indices)
    )


def output_projection(adapter: Adapter, layer: nn.Module, part: Part) -> nn.Linear:
    """The projection whose inputs belong to the units: `o_proj` or `down_proj`."""
    return (adapter.attention_linears(layer) if part == "attention" else adapter.mlp_linears(layer))[-1]


def unit_columns(units: Tensor, block_size: int) -> Tensor:
    """Indices of the inputs of the output projection that belong to units, (units * block_size,)."""
    return (units[:, None] * block_size + torch.arange(block_size, device=units.device)).flatten()


def keep_units(adapter: Adapter, layer: nn.Module, part: Part, kept: Tensor) -> None:
    """Cut a layer in place down to the units `kept` (sorted indices, at least one).

    The ratio of query to key/value heads stays what it was: a group leaves with its query heads.
    """
    shape = part_shape(adapter, layer, part)
    columns = unit_columns(kept, shape.block_size)
    if part == "mlp":
        gate, up, down = adapter.mlp_linears(layer)
        keep_rows(gate, kept)
        keep_rows(up, kept)
        keep_columns(down, kept)
        return
    query, key, value, output = adapter.attention_linears(layer)
    head_rows = unit_columns(kept, adapter.head_dim(layer))
    keep_rows(query, columns)
    keep_rows(key, head_rows)
    keep_rows(value, head_rows)
    keep_columns(output, columns)


def unit_sums(adapter: Adapter, layer: nn.Module, part: Part, values: dict[nn.Linear, Tensor]) -> Tensor:
    """Sum a value per weight over each unit's rows and columns, (units,).

    Args:
        values: for each projection of the part, a tensor of its weight's shape.
    """
    shape = part_shape(adapter, layer, part)
    linears = adapter.attention_linears(layer) if part == "attention" else adapter.mlp_linears(layer)
    *inputs, output = linears
    total = values[output].view(output.out_features, shape.units, shape.block_size).sum((0, 2))
    for linear in inputs:
        total = total + values[linear].reshape(shape.units, -1).sum(1)
    return total


def check_group_ratios(model: PreTrainedModel) -> None:
    """Raise `ValueError` if a layer's ratio of query to key/value heads is not the model's."""
    adapter, first = adapter_of(model), declared_widths(model)[0]
    ratio = first.num_attention_heads // first.num_key_value_heads
    for index, layer in enumerate(adapter.layers(model)):
        query, key, *_ = adapter.attention_linears(layer)
        if query.out_features != ratio * key.out_features:
            raise ValueError(
                f"layer {index}: {query.out_features} query against {key.out_features} key features, not {ratio} to 1"
            )
