"""To how many bits weights are rounded, and in groups of how many columns."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, BeforeValidator, Field, model_validator
from torch import nn
from transformers import PreTrainedModel

from secateur.errors import InputError
from secateur.models.adapters import adapter_of
from secateur.models.rounded import refuse_rounded
from secateur.rounding.grid import Grid

USUAL_GROUPS = (128, 64, 32)
LEAST_GROUP = 32
DAMPING = 0.1
BITS = (4, 8)


def _bits(value: object) -> object:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or value not in BITS:
        raise ValueError("bits can be 4 or 8")
    return value


def _group(value: object) -> object:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < LEAST_GROUP or value % LEAST_GROUP:
        raise ValueError("a group is a multiple of 32 columns, or auto")
    return value


Bits = Annotated[Literal[4, 8], BeforeValidator(_bits)]
Group = Annotated[int | Literal["auto"], BeforeValidator(_group)]
GROUP_HELP = (
    "Neighbouring weights of a row that share a scale. auto: 128, or where that does not divide a projection's inputs "
    "64 or 32."
)


class RoundsToo(BaseModel):
    """What a cut can be told that rounds what it leaves in the same pass."""

    quantize: Bits | None = Field(
        default=None, description="Round the weights left to 4 or 8 bits in the same pass; as they are unless given."
    )
    group: Group = Field(default="auto", description=f"For quantize: {GROUP_HELP[0].lower()}{GROUP_HELP[1:]}")

    @model_validator(mode="after")
    def _group_is_of_quantize(self) -> Self:
        if self.quantize is None and "group" in self.model_fields_set and self.group != "auto":
            raise ValueError("group has no effect without quantize")
        return self

    def rounding(self, model: PreTrainedModel) -> "Rounding | None":
        """How a model's weights are rounded; None where they are not."""
        return None if self.quantize is None else Rounding.of(model, self.quantize, self.group, DAMPING)


@dataclass(frozen=True)
class Rounding:
    """How the weights of a model are rounded.

    Attributes:
        bits: of a level.
        group: columns that share a scale, or `auto`.
        dtype: the number format in which scales are stored.
        damping: ridge of the re-fit before rounding, as a share of each input's second moment.
    """

    bits: int
    group: int | Literal["auto"]
    dtype: torch.dtype
    damping: float

    @classmethod
    def of(cls, model: PreTrainedModel, bits: int, group: int | Literal["auto"], damping: float) -> "Rounding":
        """As a model is going to be saved."""
        return cls(bits, group, getattr(model, "checkpoint_dtype", model.dtype), damping)

    def grid(self, linear: nn.Linear) -> Grid:
        """The grid of a projection."""
        group = group_of(self.group, linear.in_features)
        assert group is not None
        return Grid(self.bits, group, self.dtype)


def group_of(asked: int | Literal["auto"], width: int) -> int | None:
    """Columns that share a scale in rows of `width`; None where that cannot be."""
    if asked == "auto":
        return next((group for group in USUAL_GROUPS if width % group == 0), None)
    return asked if width % asked == 0 else None


def require_groups(model: PreTrainedModel, asked: int | Literal["auto"], layers: Iterable[int] | None = None) -> None:
    """Check that every projection's inputs can be grouped, of all layers unless some are given.

    Raises:
        InputError: one cannot, or the model is rounded already.
    """
    refuse_rounded(model, "round the model that they came from")
    adapter = adapter_of(model)
    every = adapter.layers(model)
    for index in range(len(every)) if layers is None else layers:
        for name, linear in adapter.projections(every[index]).items():
            require_group(f"{name} in layer {index}", linear, asked)


def require_group(name: str, linear: nn.Linear, asked: int | Literal["auto"]) -> None:
    """Raise `InputError` where a projection's inputs cannot be grouped. `name` is what the message calls it."""
    width = linear.in_features
    if group_of(asked, width) is not None:
        return
    fitting = [str(group) for group in USUAL_GROUPS if width % group == 0]
    if fitting:
        raise InputError(
            f"--group {asked} does not divide the {width} inputs of {name}; use {' or '.join(fitting)}, or auto, which "
            "takes the largest that fits for each"
        )
    raise InputError(
        f"{name} has {width} inputs, which no group of 32 divides; cut the model with --channel-multiple 32"
    )
