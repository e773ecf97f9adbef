"""Every family by every command: the page of docs says what is found."""

from pathlib import Path

import pytest

from families.commands import COMMANDS, Place, outcome
from families.table import families_on_the_page, lines_of, page_says
from secateur.models import supported_model_types

FAMILIES = families_on_the_page()


def test_the_page_has_a_line_for_every_family() -> None:
    assert supported_model_types() == FAMILIES, "make families writes the table"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_commands_do_what_the_page_says(family: str, tmp_path: Path, private_cache: Path) -> None:
    place = Place(family, tmp_path / "place")
    found = {command: outcome(command, place) for command in COMMANDS}
    assert lines_of(family, found) == page_says(family), "make families writes the table"
