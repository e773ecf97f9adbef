"""Where a tensor of a GGUF file goes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
    """

    parts: Mapping[str, int]
    shape: tuple[int, ...]
    heads: int = 0
    optional: bool = False
    offset: float = 0.0
    change: Callable[[Tensor], Tensor] | None = None


def place(
    name: str,
    *shape: int,
    heads: int = 0,
    optional: bool = False,
    offset: float = 0.0,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Place:
    """The place of a tensor that is one weight of the model."""
    return Place({name: shape[0]}, shape, heads, optional, offset, change)
