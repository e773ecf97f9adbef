"""What a half of a decoder layer is: an attention or an MLP between its norms, and how its units lie in its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Part = Literal["attention", "mlp"]
PARTS: tuple[Part, Part] = ("attention", "mlp")

# What the rows of an input projection are, one block after another. `gated_query` is, head by head, a query and the
# gate of what its head gives.
Rows = Literal["query", "gated_query", "key", "value", "channel"]


@dataclass(frozen=True)
class HalfNames:
    """Where a family keeps the parts of a half of its layers: names of attributes.

    Attributes:
        part: attention or MLP.
        mixer: of the layer: the module that is the attention or the MLP.
        inputs: of the mixer: its input projections in the order of use, with the blocks that their rows are.
        output: of the mixer: its output projection.
        norm: of the layer: the norm before the mixer, if there is one.
        norm_after: of the layer: the norm between the mixer and the residual stream, if there is one.
        multiplier: of the layer: the factor of what is added to the residual stream, if there is one.
        whole_norms: of the mixer: norms over all heads together, with the blocks that their weights are.
        arguments: of those that a layer is given, what the mixer takes; all if None.
        divisible: whether single units can leave; what is not keeps all its weights.
    """

    part: Part
    mixer: str
    inputs: Mapping[str, tuple[Rows, ...]]
    output: str
    norm: str | None
    norm_after: str | None = None
    multiplier: str | None = None
    whole_norms: Mapping[str, Rows] | None = None
    arguments: tuple[str, ...] | None = None
    divisible: bool = True

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of what is in the layer: the mixer, and the norms around it."""
        return (self.mixer, *(name for name in (self.norm, self.norm_after) if name is not None))

    def of(self, layer: nn.Module) -> "Half":
        """The half of a layer that has these parts."""

        def part_of(owner: nn.Module, name: str | None) -> nn.Module | None:
            return None if name is None else cast(nn.Module, getattr(owner, name))

        mixer = cast(nn.Module, getattr(layer, self.mixer))
        if getattr(mixer, "is_absent", False):
            return Half(self, layer, mixer, None, None, 1.0, {})
        return Half(
            names=self,
            layer=layer,
            mixer=mixer,
            norm=part_of(layer, self.norm),
            norm_after=part_of(layer, self.norm_after),
            multiplier=1.0 if self.multiplier is None else float(getattr(layer, self.multiplier)),
            projections={name: cast(nn.Linear, getattr(mixer, name)) for name in (*self.inputs, self.output)},
        )


@dataclass(frozen=True)
class Half:
    """A half of one layer: h + multiplier · norm_after(mixer(norm(h))).

    Its units are GQA groups (a key/value head with its query heads) or MLP channels; one that cannot be divided is a
    single unit, and one that was left out has none.

    Attributes:
        names: where its parts are.
        layer: that it is a half of.
        mixer: the attention or the MLP.
        norm: before the mixer.
        norm_after: between the mixer and the residual stream.
        multiplier: of what is added to the residual stream.
        projections: by name, in the order of use: the output projection is the last.
    """

    names: HalfNames
    layer: nn.Module
    mixer: nn.Module
    norm: nn.Module | None
    norm_after: nn.Module | None
    multiplier: float
    projections: Mapping[str, nn.Linear]

    @property
    def part(self) -> Part:
        return self.names.part

    @property
    def is_absent(self) -> bool:
        """Whether the layer goes without it."""
        return not self.projections

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """All projections, the output projection last."""
        return tuple(self.projections.values())

    @property
    def inputs(self) -> dict[str, nn.Linear]:
        """The projections that the half begins with, by name."""
        return {name: self.projections[name] for name in self.names.inputs if name in self.projections}

    @property
    def output(self) -> nn.Linear:
        """The projection whose inputs belong to the units: `o_proj` or `down_proj`."""
        return self.projections[self.names.output]

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return cast(int, self.mixer.head_dim)

    @property
    def units(self) -> int:
        """GQA groups, or MLP channels; 1 where single ones cannot leave, 0 where the half is absent."""
        if self.is_absent:
            return 0
        if not self.names.divisible:
            return 1
        if self.part == "mlp":
            return self.output.in_features
        # All rows are head_dim × groups × (query heads of a group × blocks of queries + blocks of keys and values).
        blocks = [rows for kinds in self.names.inputs.values() for rows in kinds]
        queries = sum({"query": 1, "gated_query": 2}.get(rows, 0) for rows in blocks)
        keys_and_values = sum(rows in ("key", "value") for rows in blocks)
        rows = sum(linear.out_features for linear in self.inputs.values())
        return (rows - queries * self.output.in_features) // (keys_and_values * self.head_dim)

    @property
    def block_size(self) -> int:
        """Inputs of the output projection that belong to one unit; 0 where the half is absent."""
        return self.output.in_features // self.units if self.units else 0

    def rows_per_unit(self, rows: Rows) -> int:
        """How many rows of such a block belong to one unit."""
        if rows in ("key", "value"):
            return self.head_dim
        return {"query": self.block_size, "gated_query": 2 * self.block_size, "channel": 1}[rows]

    def unit_rows(self, name: str, units: Tensor) -> Tensor:
        """Indices of the rows of an input projection that belong to units, block by block."""
        start, found = 0, []
        for rows in self.names.inputs[name]:
            size = self.rows_per_unit(rows)
            found.append(start + blocks_of(units, size))
            start += self.units * size
        return torch.cat(found)

    def by_unit(self, name: str, values: Tensor) -> Tensor:
        """Sums of a value for each weight of an input projection over each unit's rows, (units,)."""
        if not self.names.divisible:
            return values.sum()[None]
        sizes = [self.units * self.rows_per_unit(rows) for rows in self.names.inputs[name]]
        return torch.stack([block.reshape(self.units, -1).sum(1) for block in values.split(sizes)]).sum(0)

    def whole_norms(self) -> list[tuple[nn.Module, nn.Linear, int]]:
        """Norms over all heads together, each with the projection before it and its weights per unit."""
        found = []
        for norm, rows in (self.names.whole_norms or {}).items():
            before = next(name for name, blocks in self.names.inputs.items() if blocks == (rows,))
            module = cast(nn.Module, getattr(self.mixer, norm))
            found.append((module, self.projections[before], self.rows_per_unit(rows)))
        return found

    def mixed(self, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """What the mixer makes of the residual stream, (batch, seq, hidden_size) in and out: its output projection's.

        Args:
            arguments: what the layer is given beside the residual stream.
        """
        normed = hidden if self.norm is None else self.norm(hidden)
        if self.part == "mlp":
            return cast(Tensor, self.mixer(normed))
        names = self.names.arguments
        taken = {name: value for name, value in arguments.items() if names is None or name in names}
        output = self.mixer(hidden_states=normed, **taken)
        return cast(Tensor, output[0] if isinstance(output, tuple) else output)

    def add(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """The residual stream after the half, given the one before it and what the mixer has made of that."""
        added = mixed if self.norm_after is None else self.norm_after(mixed)
        return hidden + added if self.multiplier == 1 else hidden + added * self.multiplier

    def run(self, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """The residual stream after the half, given the one before it: (batch, seq, hidden_size)."""
        if self.is_absent:
            return hidden
        return self.add(hidden, self.mixed(hidden, arguments))


def blocks_of(units: Tensor, size: int) -> Tensor:
    """Indices of what belongs to units where each has `size` neighbours, (units * size,)."""
    return (units[:, None] * size + torch.arange(size, device=units.device)).flatten()
