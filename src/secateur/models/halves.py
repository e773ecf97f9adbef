"""What a half of a decoder layer is: an attention or an MLP between its norms, and how its units lie in its weights."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Part = Literal["attention", "mlp"]
PARTS: tuple[Part, Part] = ("attention", "mlp")

# What the rows of an input projection are, one block after another. `gated_query` is, head by head, a query and the
# gate of what its head gives; `query_key_value`, group by group, its queries, its key and its value.
Rows = Literal["query", "gated_query", "key", "value", "query_key_value", "channel"]
QUERIES = {"query": 1, "gated_query": 2, "query_key_value": 1}  # rows of a unit: so often its query heads,
KEYS = {"key": 1, "value": 1, "query_key_value": 2}  # and so often one head


@dataclass(frozen=True)
class HalfNames:
    """Where a family keeps the parts of a half of its layers: names of attributes.

    Attributes:
        part: attention or MLP.
        mixer: of the layer: the module that is the attention or the MLP.
        inputs: of the mixer: its input projections in the order of use, with the blocks that their rows are.
        output: of the mixer: its output projection.
        norm: of the layer: the norm before the mixer, if there is one. Halves that read the same may share it.
        parallel: whether it reads what its layer is given, as the half before it does, and not what that has made of
            it; or the name of the layer's attribute that says so.
        norm_after: of the layer: the norm between the mixer and the residual stream, if there is one.
        multiplier: of the layer: the factor of what is added to the residual stream, if there is one.
        whole_norms: of the mixer: norms over all heads together, with the blocks that their weights are.
        per_head: of the mixer: parameters with an entry for each head, (heads, …), those that it has of them; with the
            heads that they are of, `query` or `key`.
        head_dim: of the mixer: the width of a head.
        fills_hidden_size: whether its class makes all heads together as wide as the hidden states, whatever their
            number. Other widths then need code beside the weights.
        arguments: of those that a layer is given, what the mixer takes; all if None.
        divisible: whether single units can leave; what is not keeps all its weights.
        stays_as: of what is not divisible: what it is that it stays.
        softmax: of attention: whether it is softmax attention, with query and key/value heads.
        may_leave: whether a layer can go without it.
        of_layers: which layers it is of, where that is not all that have its mixer.
    """

    part: Part
    mixer: str
    inputs: Mapping[str, tuple[Rows, ...]]
    output: str
    norm: str | None
    parallel: bool | str = False
    norm_after: str | None = None
    multiplier: str | None = None
    whole_norms: Mapping[str, Rows] | None = None
    per_head: Mapping[str, Rows] | None = None
    head_dim: str = "head_dim"
    fills_hidden_size: bool = False
    arguments: tuple[str, ...] | None = None
    divisible: bool = True
    stays_as: str = ""
    softmax: bool = True
    may_leave: bool = True
    of_layers: Callable[[nn.Module], bool] | None = None

    def is_of(self, layer: nn.Module) -> bool:
        """Whether a layer has this half."""
        return hasattr(layer, self.mixer) and (self.of_layers is None or self.of_layers(layer))

    @property
    def norms(self) -> tuple[str, ...]:
        """The names of the norms around the mixer."""
        return tuple(name for name in (self.norm, self.norm_after) if name is not None)

    def own_modules(self, others: Collection[str] = ()) -> tuple[str, ...]:
        """The names of what leaves a layer with this half, but for norms that stay with it."""
        return (self.mixer, *(name for name in self.norms if name not in others))

    def of(self, layer: nn.Module, others: Collection[str] = ()) -> "Half":
        """The half of a layer that has these parts.

        Args:
            others: names of norms that stay with the layer when this half leaves it.
        """
        own = self.own_modules(others)

        def part_of(owner: nn.Module, name: str | None) -> nn.Module | None:
            return None if name is None else cast(nn.Module, getattr(owner, name))

        mixer = cast(nn.Module, getattr(layer, self.mixer))
        # Some attentions have no keys or values of their own.
        there = [name for name in (*self.inputs, self.output) if getattr(mixer, name, None) is not None]
        if getattr(mixer, "is_absent", False):
            return Half(self, layer, mixer, None, None, 1.0, {}, own)
        return Half(
            names=self,
            layer=layer,
            mixer=mixer,
            norm=part_of(layer, self.norm),
            norm_after=part_of(layer, self.norm_after),
            multiplier=1.0 if self.multiplier is None else float(getattr(layer, self.multiplier)),
            projections={name: cast(nn.Linear, getattr(mixer, name)) for name in there},
            modules=own,
        )


@dataclass(frozen=True)
class Half:
    """A half of one layer: h + multiplier · norm_after(mixer(norm(h))), or of what the layer is given in place of the
    inner h.

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
        modules: names of what leaves the layer with the half: the mixer, and the norms that no other half reads.
    """

    names: HalfNames
    layer: nn.Module
    mixer: nn.Module
    norm: nn.Module | None
    norm_after: nn.Module | None
    multiplier: float
    projections: Mapping[str, nn.Linear]
    modules: tuple[str, ...]

    @property
    def part(self) -> Part:
        return self.names.part

    @property
    def is_absent(self) -> bool:
        """Whether the layer goes without it."""
        return not self.projections

    @property
    def is_parallel(self) -> bool:
        """Whether it reads what the layer is given, where a half stands before it."""
        parallel = self.names.parallel
        return bool(getattr(self.layer, parallel)) if isinstance(parallel, str) else parallel

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
        return cast(int, getattr(self.mixer, self.names.head_dim))

    @property
    def heads(self) -> int:
        """Query heads; 0 where there is no softmax attention."""
        if self.is_absent or self.part == "mlp" or not self.names.softmax:
            return 0
        return self.output.in_features // self.head_dim

    @property
    def key_value_heads(self) -> int:
        """Key/value heads, which may be those of another layer; 0 where there is no softmax attention."""
        if self.names.divisible or not self.heads:
            return self.units if self.heads else 0
        return self.heads // cast(int, self.mixer.num_key_value_groups)

    @property
    def cached_heads(self) -> int:
        """Key/value heads of its own, which a cache holds."""
        return 0 if getattr(self.mixer, "is_kv_shared_layer", False) else self.key_value_heads

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
        blocks = [rows for name in self.inputs for rows in self.names.inputs[name]]
        queries = sum(QUERIES.get(rows, 0) for rows in blocks)
        keys_and_values = sum(KEYS.get(rows, 0) for rows in blocks)
        rows = sum(linear.out_features for linear in self.inputs.values())
        return (rows - queries * self.output.in_features) // (keys_and_values * self.head_dim)

    @property
    def block_size(self) -> int:
        """Inputs of the output projection that belong to one unit; 0 where the half is absent."""
        return self.output.in_features // self.units if self.units else 0

    def rows_per_unit(self, rows: Rows) -> int:
        """How many rows of such a block belong to one unit."""
        if rows == "channel":
            return 1
        return QUERIES.get(rows, 0) * self.block_size + KEYS.get(rows, 0) * self.head_dim

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

    def per_head(self) -> list[tuple[nn.Module, str, int]]:
        """Parameters with an entry for each head: the module and the name there, and the entries of a unit."""
        found = []
        for path, rows in (self.names.per_head or {}).items():
            module, _, name = path.rpartition(".")
            owner = getattr(self.mixer, module, None) if module else self.mixer
            if isinstance(getattr(owner, name, None), nn.Parameter):
                found.append((cast(nn.Module, owner), name, self.rows_per_unit(rows) // self.head_dim))
        return found

    def mixed(self, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """What the mixer makes of a residual stream, (batch, seq, hidden_size) in and out: its output projection's.

        Args:
            hidden: the stream that it reads.
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

    def run(self, hidden: Tensor, arguments: Mapping[str, Any], read: Tensor | None = None) -> Tensor:
        """The residual stream after the half, given the one before it: (batch, seq, hidden_size).

        Args:
            arguments: what the layer is given beside the residual stream.
            read: what the half reads; the stream before it unless given.
        """
        if self.is_absent:
            return hidden
        return self.add(hidden, self.mixed(hidden if read is None else read, arguments))


def blocks_of(units: Tensor, size: int) -> Tensor:
    """Indices of what belongs to units where each has `size` neighbours, (units * size,)."""
    return (units[:, None] * size + torch.arange(size, device=units.device)).flatten()
