"""A part of a corpus: `text.txt[:80%]` and `text.txt[80%:]` are two parts that share nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from secateur.errors import DataError

Items = TypeVar("Items", bound=Sequence)

_BRACKETS = re.compile(r"(?P<base>.+)(?P<part>\[[^\[\]]*\])", re.DOTALL)
_PART = re.compile(r"\[(?:(?P<start>\d+(?:\.\d+)?)%)?:(?:(?P<stop>\d+(?:\.\d+)?)%)?\]", re.ASCII)


@dataclass(frozen=True)
class Part:
    """The half-open range from `start` to `stop`, both as a share of the whole between 0 and 1."""

    start: Fraction
    stop: Fraction
    written: str

    def of(self, items: Items) -> Items:
        """The items of this part. The ends are rounded down, so neighbouring parts tile the whole."""
        return items[int(len(items) * self.start) : int(len(items) * self.stop)]  # type: ignore[return-value]


def split_name(name: str) -> tuple[str, Part | None]:
    """Separate `text.txt[:80%]` into `text.txt` and its part, which is `None` where none is written.

    Raises:
        DataError: what stands in brackets at the end is no range of percentages.
    """
    match = _BRACKETS.fullmatch(name)
    if match is None:
        return name, None
    written = match["part"]
    bounds = _PART.fullmatch(written)
    if bounds is None:
        raise DataError(f"{name}: {written} is no part of a text; write percentages, [:80%] or [80%:]")
    start = Fraction(bounds["start"] or 0) / 100
    stop = Fraction(bounds["stop"] or 100) / 100
    if not start < stop <= 1:
        raise DataError(f"{name}: {written} is no part of a text; it must run from lower to higher, 0% to 100%")
    return match["base"], Part(start, stop, written)
