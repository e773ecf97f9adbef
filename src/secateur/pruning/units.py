"""The units that leave a layer: GQA groups (one key/value head with its query heads) and MLP channels."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Half, Part, blocks_of
from secateur.models.modeling_secateur import leave_out
from secateur.models.widths import declared_widths, head_dim_of, keep_columns, keep_rows, layer_widths

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartShape:
    """One half of a layer as a row of units.

    Attributes:
        units: how many units it has.
        block_size: inputs of its output projection that belong to one unit.
        unit_parameters: parameters that leave with one unit.
        divisible: whether single units can leave; if not, there is one, which stays.
        stays_as: of what is not divisible: what it is.
        may_leave: whether the layer can go without the half.
        heads: query heads of softmax attention.
        key_value_heads: its key/value heads, which may be those of another layer.
    """

    units: int
    block_size: int
    unit_parameters: int
    divisible: bool = True
    stays_as: str = ""
    may_leave: bool = True
    heads: int = 0
    key_value_heads: int = 0

    @property
    def heads_per_group(self) -> int:
        """Query heads of a key/value head; 0 without any."""
        return self.heads // self.key_value_heads if self.key_value_heads else 0


def part_shape(half: Half) -> PartShape:
    """The units of a layer's attention (GQA groups) or MLP (channels)."""
    if half.is_absent:
        return PartShape(0, 0, 0)
    parameters = half.output.weight.numel()
    for linear in half.inputs.values():
        parameters += linear.weight.numel() + (0 if linear.bias is None else linear.bias.numel())
    parameters += sum(linear.out_features for _, linear, _ in half.whole_norms())
    parameters += sum(module.get_parameter(name).numel() for module, name, _ in half.per_head())
    return PartShape(
        units=half.units,
        block_size=half.block_size,
        unit_parameters=parameters // half.units,
        divisible=half.names.divisible,
        stays_as=half.names.stays_as,
        may_leave=half.names.may_leave,
        heads=half.heads,
        key_value_heads=half.key_value_heads,
    )


def log_what_stays(model: PreTrainedModel) -> None:
    """Say of which layers a half keeps all its units, and why."""
    adapter, stay = adapter_of(model), defaultdict(list)
    for index, layer in enumerate(adapter.layers(model)):
        for part in PARTS:
            half = adapter.half(layer, part)
            if not half.is_absent and not half.names.divisible:
                stay[part, half.names.stays_as].append(str(index))
    for (part, what), layers in stay.items():
        logger.info("The %s of layers %s stays as it is: it is %s", part, ", ".join(layers), what)


def part_shapes(model: PreTrainedModel) -> list[dict[Part, PartShape]]:
    """The units of every layer's attention and MLP."""
    adapter = adapter_of(model)
    return [{part: part_shape(adapter.half(layer, part)) for part in PARTS} for layer in adapter.layers(model)]


def identity(model: PreTrainedModel) -> dict[str, Any]:
    """What model a plan is of: its family, its sizes, and a digest of the sizes of all its units."""
    shapes, config = part_shapes(model), model.config
    sizes = [
        (half.units, half.block_size, half.unit_parameters, half.heads, half.key_value_heads)
        for shape in shapes
        for half in (shape[part] for part in PARTS)
    ]
    return {
        "family": adapter_of(model).model_type,
        "num_hidden_layers": len(shapes),
        "hidden_size": config.hidden_size,
        "head_dim": head_dim_of(model),
        "units": hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16],
    }


# What a model has to have one of.
NEEDED: dict[Part, str] = {"attention": "softmax attention", "mlp": "MLP"}


def halves_there(shapes: Sequence[Mapping[Part, PartShape]]) -> dict[Part, set[int]]:
    """The layers that have softmax attention, and those that have an MLP."""
    return {
        "attention": {index for index, shape in enumerate(shapes) if shape["attention"].heads},
        "mlp": {index for index, shape in enumerate(shapes) if shape["mlp"].units},
    }


def usual_attention(shapes: Sequence[Mapping[Part, PartShape]]) -> PartShape:
    """The attention of the first layer whose groups can leave; the first layer's where there is none."""
    return next(
        (shape["attention"] for shape in shapes if shape["attention"].units and shape["attention"].divisible),
        shapes[0]["attention"],
    )


def are_units(indices: Tensor, count: int) -> bool:
    """Whether a tensor has indices of units, each at most once, where there are so many."""
    if indices.dim() != 1 or indices.is_floating_point():
        return False
    return indices.numel() == 0 or (
        int(indices.min()) >= 0 and int(indices.max()) < count and len(indices.unique()) == len(indices)
    )


@torch.no_grad()
def keep_units(half: Half, kept: Tensor) -> None:
    """Cut half a layer in place down to the units `kept` (sorted indices).

    The ratio of query to key/value heads stays what it was: a group leaves with its query heads. Where none is kept the
    half leaves whole, with the norms that are its own.
    """
    if not len(kept):
        leave_out(half.layer, int(getattr(half.mixer, "layer_idx", 0)), half.part, *half.modules)
        return
    rows = {name: half.unit_rows(name, kept) for name in half.inputs}
    columns = blocks_of(kept, half.block_size)
    for norm, linear, size in half.whole_norms():
        _narrow_norm(norm, linear.weight, blocks_of(kept, size))
    for module, name, size in half.per_head():
        values = module.get_parameter(name)
        own = values[blocks_of(kept, size).to(values.device)].clone()
        setattr(module, name, nn.Parameter(own, values.requires_grad))
    for name, linear in half.inputs.items():
        keep_rows(linear, rows[name])
    keep_columns(half.output, columns)


def _narrow_norm(norm: nn.Module, weight: Tensor, rows: Tensor) -> None:
    """Cut a norm over all heads together: x / rms(x), whose rms was over those that leave as well.

    The root mean square over what is left is another one. Its weights take up the difference, as far as the rows of
    the projection before it tell: exactly where the heads that leave are zero, and nothing where all rows are alike.

    Args:
        norm: with a weight for each row of the projection.
        weight: of the projection, before it is cut.
        rows: those that stay.
    """
    gains, squares = cast(nn.Parameter, norm.weight), weight.float().square().sum(1)
    scale = (squares[rows.to(weight.device)].mean() / squares.mean()).sqrt()
    kept = gains[rows.to(gains.device)]
    norm.weight = nn.Parameter(kept * scale.to(kept), gains.requires_grad)


def unit_sums(half: Half, values: dict[nn.Linear, Tensor]) -> Tensor:
    """Sum a value per weight over each unit's rows and columns, (units,).

    Args:
        values: for each projection of the half, a tensor of its weight's shape.
    """
    output = half.output
    total = values[output].view(output.out_features, half.units, half.block_size).sum((0, 2))
    for name, linear in half.inputs.items():
        total = total + half.by_unit(name, values[linear])
    return total


def check_group_ratios(model: PreTrainedModel) -> None:
    """Raise `ValueError` if a layer's ratio of query to key/value heads is not what it was by the config."""
    for index, (before, after) in enumerate(zip(declared_widths(model), layer_widths(model), strict=True)):
        if after.num_attention_heads * before.num_key_value_heads != (
            before.num_attention_heads * after.num_key_value_heads
        ):
            raise ValueError(
                f"layer {index}: {after.num_attention_heads} query against {after.num_key_value_heads} key heads, "
                f"where there were {before.num_attention_heads} against {before.num_key_value_heads}"
            )
