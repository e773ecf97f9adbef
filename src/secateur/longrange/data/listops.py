"""ListOps: nested lists of digits and operators, and the digit that they come to.

Nangia and Bowman 2018, "ListOps: A Diagnostic Dataset for Latent Tree Learning", in the lengths of the Long Range
Arena (Tay et al. 2021): each argument of an operator is an operator itself with probability 0.25, down to depth 10.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.longrange.data.rows import Row, Tokens

OPERATORS = ("[MAX", "[MIN", "[MED", "[SM")
END = "]"
VOCABULARY = ("<pad>", *map(str, range(10)), *OPERATORS, END)  # a token is the place in this list

SHORTEST, LONGEST = 32, 8192  # lengths beyond which too few trees of depth 10 are to be had

_MAX_DEPTH = 10
_MAX_ARGUMENTS = 10
_OPERATOR_PROBABILITY = 0.25
_TREES_AT_ONCE = 1024

_FIRST_DIGIT, _FIRST_OPERATOR, _END = (VOCABULARY.index(word) for word in ("0", OPERATORS[0], END))

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Level:
    """All nodes of one depth of many trees, those with the same parent side by side.

    Attributes:
        tree: which tree each node is of, (nodes,), ascending.
        operator: whether it is an operator, (nodes,), else a digit.
        arguments: how many children the operators have, (operators,).
    """

    tree: Array
    operator: Array
    arguments: Array

    @property
    def starts(self) -> Array:
        """Where each operator's children begin in the next level, (operators,)."""
        return np.cumsum(self.arguments) - self.arguments


def draw_examples(rng: np.random.Generator, max_length: int) -> Iterator[Row]:
    """Draw examples without end.

    Args:
        rng: the only source of randomness.
        max_length: sequences are shorter than this and longer than a quarter of it, as published for 2000 and 500.
    """
    while True:
        levels, lengths = draw_trees(rng, _TREES_AT_ONCE, max_length // 4, max_length)
        tokens, labels = write_out(rng, levels)
        ends = np.cumsum(lengths)
        for first, last, label in zip(ends - lengths, ends, labels, strict=True):
            yield Row((tokens[first:last],), int(label))


def draw_trees(rng: np.random.Generator, trees: int, min_length: int, max_length: int) -> tuple[list[Level], Array]:
    """Draw the shapes of trees level by level, and keep those of the wanted length.

    A tree that has grown too long is not grown further, which is what makes rejection cheap.

    Args:
        rng: the source of randomness.
        trees: how many are drawn; each has an operator as its root.
        min_length: lengths, of operators, digits and closing brackets together, are larger than this,
        max_length: and smaller than this.

    Returns:
        The levels of the trees that were kept, numbered anew, and their lengths, (kept,).
    """
    tree, operator = np.arange(trees), np.ones(trees, bool)
    lengths = np.zeros(trees, np.int64)
    levels = []
    for depth in range(1, _MAX_DEPTH + 1):
        lengths += np.bincount(tree, minlength=trees) + np.bincount(tree[operator], minlength=trees)
        alive = lengths < max_length
        operator = operator[alive[tree]]
        tree = tree[alive[tree]]
        arguments = rng.integers(2, _MAX_ARGUMENTS + 1, int(operator.sum()))
        levels.append(Level(tree, operator, arguments))
        tree = np.repeat(tree[operator], arguments)
        probability = _OPERATOR_PROBABILITY if depth + 1 < _MAX_DEPTH else 0
        operator = rng.random(len(tree)) < probability
    kept = (lengths > min_length) & (lengths < max_length)
    return [_only(level, kept) for level in levels], lengths[kept]


def _only(level: Level, kept: Array) -> Level:
    """The nodes of some trees, (trees,) of booleans, which are numbered anew."""
    stays = kept[level.tree]
    return Level(
        tree=(np.cumsum(kept) - 1)[level.tree[stays]],
        operator=level.operator[stays],
        arguments=level.arguments[kept[level.tree[level.operator]]],
    )


def write_out(rng: np.random.Generator, levels: list[Level]) -> tuple[Tokens, Array]:
    """Fill shapes with random operators and digits.

    Args:
        rng: the source of randomness.
        levels: of the trees, the roots first.

    Returns:
        The tokens of all trees one after the other, and what each tree comes to, (trees,).
    """
    kinds = [rng.integers(0, len(OPERATORS), len(level.arguments)) for level in levels]
    values = [rng.integers(0, 10, len(level.tree)) for level in levels]
    sizes = [np.ones(len(level.tree), np.int64) for level in levels]
    words = [_FIRST_DIGIT + value for value in values]
    for depth in reversed(range(len(levels))):
        level = levels[depth]
        words[depth][level.operator] = _FIRST_OPERATOR + kinds[depth]
        if len(level.arguments):
            values[depth][level.operator] = evaluate(kinds[depth], values[depth + 1], level)
            sizes[depth][level.operator] = 2 + np.add.reduceat(sizes[depth + 1], level.starts)
    tokens = np.zeros(int(sizes[0].sum()), np.uint16)
    position = np.cumsum(sizes[0]) - sizes[0]
    for level, size, word, below in zip(levels, sizes, words, [*sizes[1:], None], strict=True):
        tokens[position] = word
        opened = position[level.operator]
        tokens[opened + size[level.operator] - 1] = _END
        if below is not None:
            before = np.cumsum(below) - below
            position = np.repeat(opened + 1 - before[level.starts], level.arguments) + before
    return tokens, values[0]


def evaluate(kinds: Array, arguments: Array, level: Level) -> Array:
    """What operators come to.

    Args:
        kinds: places in `OPERATORS`, (operators,).
        arguments: the values of all their children, (children,).
        level: the level of the operators.

    Returns:
        A digit each, (operators,). The median of an even number of digits is rounded down.
    """
    starts, number = level.starts, level.arguments
    group = np.repeat(np.arange(len(number)), number)
    ordered = np.sort(group * 16 + arguments) % 16  # ascending within each operator's children
    median = (ordered[starts + (number - 1) // 2] + ordered[starts + number // 2]) // 2
    maximum, minimum = ordered[starts + number - 1], ordered[starts]
    return np.choose(kinds, [maximum, minimum, median, np.add.reduceat(arguments, starts) % 10])
