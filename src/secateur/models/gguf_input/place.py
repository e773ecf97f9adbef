"""Where a tensor of a GGUF file goes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where a tensor of the file goes.

    Attributes:
        parts: by their names in the model's state, the rows of the tensor that belong to each: one for most.
        shape: that the config asks for.
        heads: of queries or keys whose rows stand in llama.cpp's order; 0 for all else.
        optional: a bias that the file may leave out, and that is then zero.
        offset: what the file has more than the model.
        change: makes the model's weight of the file's.
        blocks: rows that belong to units, in blocks; none where they belong to none.
        power: of a weight before or behind a norm over all heads: to which power of √(rows in the file / rows of the
            model) it is multiplied, where zeros stand beside its own.
    """

    parts: Mapping[str, int]
    shape: tuple[int, ...]
    heads: int = 0
    optional: bool = False
    offset: float = 0.0
    change: Callable[[Tensor], Tensor] | None = None
    blocks: tuple[int, ...] = ()
    power: int = 0

    def cut_down(self, weights: Tensor, own: "Place") -> Tensor | None:
        """What the model has of weights of this place; None where it would leave out more than zeros.

        The inputs of an output projection whose units are zeros may be anything.

        Args:
            weights: in the model's order of rows.
            own: the place that a file without zeros has for it.
        """
        blocks = self.blocks or (self.shape[0],), own.blocks or (own.shape[0],)
        kept = []
        for block, size in zip(weights.split(list(blocks[0])), blocks[1], strict=True):
            if block[size:].any():
                return None
            kept.append(block[:size])
        made = torch.cat(kept)
        if len(own.shape) > 1:
            made = made[:, : own.shape[1]]
        return made * math.sqrt(self.shape[0] / own.shape[0]) ** self.power if self.power else made


def place(name: str, *shape: int, offset: float = 0.0, power: int = 0) -> Place:
    """The place of a tensor that is one weight of the model."""
    return Place({name: shape[0]}, shape, offset=offset, power=power)
