import re
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.data.slices import split_name
from secateur.errors import DataError

PERCENT = st.decimals(min_value="0.01", max_value="99.99", places=2)


@given(st.text(max_size=300), PERCENT)
def test_the_two_sides_of_a_cut_partition_a_text(text: str, cut: object) -> None:
    _, first = split_name(f"x.txt[:{cut}%]")
    _, second = split_name(f"x.txt[{cut}%:]")
    assert first is not None and second is not None
    assert first.of(text) + second.of(text) == text


@given(st.lists(st.integers(), max_size=50), st.lists(PERCENT, min_size=1, max_size=5, unique=True))
def test_neighbouring_parts_tile_a_list(items: list[int], cuts: list[object]) -> None:
    bounds = ["", *(f"{cut}%" for cut in sorted(cuts)), ""]  # type: ignore[type-var]
    parts = [split_name(f"x[{low}:{high}]")[1] for low, high in pairwise(bounds)]
    assert [item for part in parts if part for item in part.of(items)] == items


def test_a_percentage_is_exact() -> None:
    _, part = split_name("x.txt[:29%]")
    assert part is not None and part.stop == Fraction(29, 100)
    assert len(part.of("a" * 100)) == 29


@pytest.mark.parametrize("name", ["pydocs", "a[1].txt", "dir[0]/file.jsonl"])
def test_a_name_without_a_part_stays_whole(name: str) -> None:
    assert split_name(name) == (name, None)


@pytest.mark.parametrize(
    ("part", "advice"),
    [
        ("[:80]", "write percentages"),
        ("[80%]", "write percentages"),
        ("[]", "write percentages"),
        ("[:-5%]", "write percentages"),
        ("[a:b]", "write percentages"),
        ("[80%:20%]", "lower to higher"),
        ("[50%:50%]", "lower to higher"),
        ("[:0%]", "lower to higher"),
        ("[:120%]", "0% to 100%"),
        ("[100%:]", "lower to higher"),
    ],
)
def test_a_part_that_is_none_is_refused(part: str, advice: str) -> None:
    with pytest.raises(DataError, match=re.escape(part) + f".*{advice}"):
        split_name(f"text.txt{part}")
