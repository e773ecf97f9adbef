"""The projections of a model's layers as rows of the tensors that llama.cpp's graphs read."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.exporting.folding import Factors
from secateur.exporting.layout import Layout
from secateur.models import LayerWidths
from secateur.models.halves import Half
from secateur.models.halves import Rows as Kind

ATTENTION = {"query": "attn_q", "gated_query": "attn_q", "key": "attn_k", "value": "attn_v"}
OUTPUTS = {"attention": "attn_output", "mlp": "ffn_down"}


@dataclass(frozen=True)
class Rows:
    """Rows of a projection that stand together in a tensor of the file.

    Attributes:
        weight: of the projection, or its bias.
        first, count: the rows.
        of_unit, skipped: where they stand between others, the rows of each unit and how many of them come first.
        size: as many stand in the file; those that are missing are zeros.
        columns: of the file; 0 for biases.
        heads: of queries or keys whose neighbouring rows the graph rotates together; 0 for all else.
        rotated: of each head so many rows, from the first, are rotated.
        factor: what the weights are multiplied by.
        rotated_factor: what those of them that are rotated are multiplied by beside that.
    """

    weight: Tensor
    first: int
    count: int
    size: int
    columns: int
    heads: int = 0
    rotated: int = 0
    factor: float = 1.0
    rotated_factor: float = 1.0
    of_unit: int = 0
    skipped: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.columns) if self.columns else (self.size,)

    def make(self) -> Tensor:
        """The rows as they stand in the file, in float32."""
        rows = self._own_rows().to("cpu", torch.float32)
        if self.factor != 1.0:
            rows = rows * self.factor
        if self.rotated_factor != 1.0:
            rows = rows.clone()
            rows.reshape(self.heads, -1, *rows.shape[1:])[:, : self.rotated] *= self.rotated_factor
        if self.heads:
            rows = interleaved(rows, self.heads, self.rotated)
        return filled(rows, self.shape)

    def _own_rows(self) -> Tensor:
        weight = self.weight.detach()
        if not self.of_unit:
            return weight[self.first : self.first + self.count]
        units = weight.unflatten(0, (-1, self.of_unit))  # (units, rows of a unit, …)
        size = self.count // len(units)
        return units[:, self.skipped : self.skipped + size].flatten(0, 1)


def interleaved(rows: Tensor, heads: int, rotated: int = 0) -> Tensor:
    """Rows of a projection of queries or keys, (heads · head_dim, …), in the order of llama.cpp's Llama.

    Of each head, the rows that Transformers rotates together, i and i + rotated / 2, become neighbours.

    Args:
        rotated: rows of a head that are rotated; all unless given.
    """
    by_head = rows.reshape(heads, -1, *rows.shape[1:])
    turning = by_head[:, : rotated or None]
    pairs = turning.reshape(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(turning.shape)
    return torch.cat([pairs, by_head[:, turning.shape[1] :]], dim=1).reshape(rows.shape)


def filled(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros below and to the right: heads and channels that add nothing."""
    missing = [size - own for own, size in zip(tensor.shape, shape, strict=True)]
    return nn.functional.pad(tensor, [number for size in reversed(missing) for number in (0, size)])


def tensors_of(
    half: Half, width: LayerWidths, config: Any, layout: Layout, factors: Factors
) -> Iterator[tuple[str, list[Rows]]]:
    """The tensors of a half by their short names with `.weight` or `.bias`, and the rows in each.

    Args:
        half: one whose units can leave.
        width: of its layer in the file.
        config: the model's.
    """
    found: dict[str, list[Rows]] = {}
    for short, rows in _inputs(half, width, config, layout, factors):
        kind = "weight" if rows.columns else "bias"
        holder = next((name for name, parts in layout.graph.joined.items() if short in parts), short)
        found.setdefault(f"{holder}.{kind}", []).append(rows)
    yield from found.items()
    output, short = half.output, OUTPUTS[half.part]
    columns, count = units_in_file(half, width) * half.block_size, output.out_features
    yield f"{short}.weight", [Rows(output.weight, 0, count, count, columns, factor=factors.residual)]
    if output.bias is not None:
        yield f"{short}.bias", [Rows(output.bias, 0, count, count, 0, factor=factors.residual)]


def units_in_file(half: Half, width: LayerWidths) -> int:
    return width.num_key_value_heads if half.part == "attention" else width.intermediate_size


def whole_norm_scale(half: Half, width: LayerWidths) -> float:
    """By what a norm over all heads divides more, where zeros stand beside them: root of units over units."""
    return math.sqrt(units_in_file(half, width) / half.units)


def _inputs(
    half: Half, width: LayerWidths, config: Any, layout: Layout, factors: Factors
) -> Iterator[tuple[str, Rows]]:
    before_norms = {linear for _, linear, _ in half.whole_norms()}
    units, to_norm = units_in_file(half, width), hasattr(half.mixer, "q_norm")
    rotated = int(layout.head_dim * _part_rotated(config))
    channels = sum(kind == "channel" for kinds in half.names.inputs.values() for kind in kinds)
    names = iter(("ffn_gate", "ffn_up")[-channels:]) if channels else iter(())
    for name, kinds in half.names.inputs.items():
        linear, first = half.projections[name], 0
        for kind, of_unit, skipped in _blocks(half, kinds):
            block = half.rows_per_unit(kind)
            short = ATTENTION[kind] if kind in ATTENTION else next(names)
            count = half.units * block
            turned = layout.graph.neighbours and kind in ("query", "key")
            factor = whole_norm_scale(half, width) if linear in before_norms else 1.0
            if kind == "query" and not to_norm:
                factor *= factors.query
            for weight in (linear.weight, linear.bias):
                if weight is not None:
                    yield (
                        short,
                        Rows(
                            weight,
                            first,
                            count,
                            units * block,
                            linear.in_features if weight.dim() == 2 else 0,
                            heads=count // layout.head_dim if turned else 0,
                            rotated=rotated,
                            factor=factor,
                            rotated_factor=factors.rotated_query if kind == "query" else 1.0,
                            of_unit=of_unit,
                            skipped=skipped,
                        ),
                    )
            first += count


def _blocks(half: Half, kinds: Sequence[Kind]) -> Iterator[tuple[Kind, int, int]]:
    """The blocks of a projection's rows, those that stand unit by unit one by one, as `Rows.of_unit` and `skipped`."""
    together: tuple[Kind, ...] = ("query", "key", "value")
    for kind in kinds:
        if kind != "query_key_value":
            yield kind, 0, 0
            continue
        sizes = [half.rows_per_unit(part) for part in together]
        yield from ((part, sum(sizes), sum(sizes[:index])) for index, part in enumerate(together))


def _part_rotated(config: Any) -> float:
    return float(config.rope_parameters.get("partial_rotary_factor", 1.0))
