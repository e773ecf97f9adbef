"""docs/families.md: a line for each family, of what its commands did, and a line for each refusal."""

from collections.abc import Mapping
from pathlib import Path

from families.commands import COMMANDS, Outcome

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
BEGIN, END = "<!-- printed by python -m families -->\n", "<!-- end of what is printed -->\n"
HEADINGS = ("`model_type`", *COMMANDS)


def lines_of(family: str, outcomes: Mapping[str, Outcome]) -> list[str]:
    """The family's line of the table, and a line for each command that was refused."""
    row = _row(f"`{family}`", *(outcomes[command].said for command in COMMANDS))
    refused = [f"* {command}, `{family}`: {found.why}\n" for command, found in outcomes.items() if found.why]
    return [row, *refused]


def printed(results: Mapping[str, Mapping[str, Outcome]]) -> str:
    """The part of the page that a run gives."""
    lines = [lines_of(family, outcomes) for family, outcomes in results.items()]
    table = [_row(*HEADINGS), _row(*["---"] * len(HEADINGS)), *(row for row, *_ in lines)]
    refused = [line for _, *rest in lines for line in rest]
    return "".join([*table, "\n", *refused])


def families_on_the_page() -> list[str]:
    """The families that the table has lines of."""
    rows = [line for line in _on_the_page().splitlines() if line.startswith("| `")]
    return [row.split("`")[1] for row in rows if not row.startswith(f"| {HEADINGS[0]}")]


def page_says(family: str) -> list[str]:
    """The lines of the page about a family, as `lines_of`."""
    lines = _on_the_page().splitlines(keepends=True)
    return [line for line in lines if line.startswith(f"| `{family}`") or f", `{family}`: " in line]


def write(results: Mapping[str, Mapping[str, Outcome]]) -> None:
    """Put what a run gave into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + printed(results) + END + rest.partition(END)[2], encoding="utf-8")


def _on_the_page() -> str:
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"
