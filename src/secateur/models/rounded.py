"""Weights that stand on a grid of a few bits: what is noted of them on a model, how they are packed and unpacked.

A model of rounded weights is an ordinary one in memory: each weight is level · scale, in the model's number format.
What is noted on a linear module, its bits and its scales, is enough to find the levels again, exactly. On disk it is
compressed-tensors' format `pack-quantized`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32
from torch import Tensor, nn

from secateur.errors import InputError

ATTRIBUTE = "secateur_rounded"
PACKED, SCALE, SHAPE = "weight_packed", "weight_scale", "weight_shape"


@dataclass(frozen=True)
class Rounded:
    """The grid that a matrix's weights stand on: level · scale with levels −2^(bits−1) … 2^(bits−1) − 1.

    Attributes:
        bits: of a level.
        group: columns of a row that share a scale.
        scale: (out_features, in_features / group), in the number format in which it is stored.
    """

    bits: int
    group: int
    scale: Tensor

    def weights(self, levels: Tensor, dtype: torch.dtype) -> Tensor:
        """The weights of levels (out_features, in_features), as they are in a number format."""
        scale = self.scale.to(levels.device, dtype).repeat_interleave(self.group, 1)
        return levels.to(dtype) * scale

    def levels(self, weight: Tensor) -> Tensor | None:
        """The levels that weights (out_features, in_features) stand on, int8; None where they do not."""
        rows, columns = weight.shape
        if self.scale.shape != (rows, columns // self.group) or columns % self.group:
            return None
        # As the weights' number format has it: eight bits of a level are as many as bfloat16 has in all.
        scale = self.scale.to(weight.device, weight.dtype).float().repeat_interleave(self.group, 1)
        highest = 2 ** (self.bits - 1)
        levels = (weight.float() / scale).round_().nan_to_num_().clamp_(-highest, highest - 1)
        # A scale that its number format has made zero stands for zeros.
        return levels.to(torch.int8) if torch.equal(self.weights(levels, weight.dtype), weight) else None


def rounded_of(linear: nn.Module) -> Rounded | None:
    """What is noted on a linear module of its weights' grid."""
    return cast("Rounded | None", getattr(linear, ATTRIBUTE, None))


def note_rounded(linear: nn.Module, rounded: Rounded | None) -> None:
    """Note a grid on a linear module whose weights stand on it, or drop what is noted."""
    if rounded is None:
        vars(linear).pop(ATTRIBUTE, None)
    else:
        cast(Any, linear).secateur_rounded = rounded


def rounded_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear modules of a model with rounded weights, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and rounded_of(module) is not None
    }


def is_rounded(model: nn.Module) -> bool:
    """Whether a model has rounded weights."""
    return any(rounded_of(module) is not None for module in model.modules())


def forget_rounding(model: nn.Module) -> None:
    """Drop what is noted: the model is an ordinary one from now on, and saved as such."""
    for module in model.modules():
        note_rounded(module, None)


def refuse_rounded(model: nn.Module, what: str) -> None:
    """Raise `InputError` where a model has rounded weights. `what` says what to do instead."""
    if is_rounded(model):
        raise InputError(f"the model's weights are rounded to {describe_bits(model)}; {what}")


def describe_bits(model: nn.Module) -> str:
    """`4 bits`, or `4 and 8 bits`."""
    found = sorted({cast(Rounded, rounded_of(linear)).bits for linear in rounded_linears(model).values()})
    return f"{' and '.join(map(str, found))} bits"


def describe_rounding(model: nn.Module) -> str | None:
    """In a sentence which weights are rounded, and what they take on disk; None of an ordinary model."""
    linears = rounded_linears(model)
    if not linears:
        return None
    notes = {name: cast(Rounded, rounded_of(linear)) for name, linear in linears.items()}
    groups = sorted({note.group for note in notes.values()})
    size = sum(packed_bytes(linear.weight.shape, notes[name]) for name, linear in linears.items())
    weights = sum(linear.weight.numel() for linear in linears.values())
    group = f"groups of {' and '.join(map(str, groups))}"
    return (
        f"The weights of {len(linears)} matrices are rounded to {describe_bits(model)} in {group}: "
        f"{size / 1e6:,.1f} MB on disk, {8 * size / weights:.2f} bits a weight"
    )


def packed_bytes(shape: tuple[int, ...], rounded: Rounded) -> int:
    """What a matrix (out_features, in_features) takes on disk with its scales."""
    rows, columns = shape
    return 4 * rows * math.ceil(columns * rounded.bits / 32) + rounded.scale.nbytes


def packed(linear: nn.Linear) -> dict[str, Tensor] | None:
    """A linear module's weights as they are stored, by the names of compressed-tensors; None where they have changed.

    Returns:
        `weight_packed`, (out_features, in_features · bits / 32) int32; `weight_scale`; `weight_shape`, (2,) int64.
    """
    rounded = rounded_of(linear)
    assert rounded is not None
    levels = rounded.levels(linear.weight.detach())
    if levels is None:
        return None
    return {
        PACKED: pack_to_int32(levels.cpu(), rounded.bits),
        SCALE: rounded.scale.cpu().contiguous(),
        SHAPE: torch.tensor(linear.weight.shape),
    }


def unpacked(stored: Mapping[str, Tensor], bits: int, dtype: torch.dtype) -> tuple[Tensor, Rounded]:
    """The weights that were stored so, in a number format, and their grid."""
    rows, columns = stored[SHAPE].tolist()
    scale = stored[SCALE]
    rounded = Rounded(bits, columns // scale.shape[1], scale)
    levels = unpack_from_int32(stored[PACKED], bits, torch.Size((rows, columns)))
    return rounded.weights(levels, dtype), rounded
