"""One example of any task: token sequences and a class."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

PADDING = 0
BYTE_VOCABULARY = 257  # 256 bytes after the padding

SplitName = Literal["train", "dev", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "dev", "test")

Tokens: TypeAlias = NDArray[np.uint16]


@dataclass(frozen=True)
class Row:
    """An example.

    Attributes:
        inputs: one sequence of tokens, or two for a task of pairs; (length,) each, 1 or longer, no padding.
        label: the class.
    """

    inputs: tuple[Tokens, ...]
    label: int


def byte_tokens(content: bytes, max_length: int) -> Tokens:
    """Bytes as tokens, each its value plus 1, cut to `max_length`.

    An empty text becomes a single newline, since attention needs one token that is no padding.
    """
    return np.frombuffer(content[:max_length] or b"\n", np.uint8).astype(np.uint16) + np.uint16(1)
