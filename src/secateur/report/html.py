"""The HTML page of a run: one file that needs no network, no script and no other file."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources

import jinja2
from matplotlib.figure import Figure

from secateur.report.layout import Column, split
from secateur.report.style import NARROW, WIDE, svg

Draw = Callable[[float], Figure]
TEMPLATE = "report.html.j2"
PAGE_WIDTH = 84  # characters of a table, where a page is 800 pixels wide


@dataclass(frozen=True)
class Table:
    """Cells as text. Columns from `numbers_from` on are aligned to the right.

    Where not all fit the page, several tables stand below each other, each with the columns before `numbers_from`.
    """

    header: list[str]
    rows: list[list[str]]
    caption: str = ""
    numbers_from: int = 1
    joined: frozenset[int] = frozenset()

    def parts(self) -> "list[Table]":
        """The tables that stand below each other, as few as fit `PAGE_WIDTH` characters and about as wide each."""
        cells = list(zip(*self.rows, strict=True)) or [()] * len(self.header)
        columns = [
            Column(header, list(cell), "left" if index < self.numbers_from else "right", index in self.joined)
            for index, (header, cell) in enumerate(zip(self.header, cells, strict=True))
        ]
        found = split(columns, PAGE_WIDTH, self.numbers_from) or [columns]
        for width in range(PAGE_WIDTH, 0, -2):
            tried = split(columns, width, self.numbers_from)
            if tried is None or len(tried) > len(found):
                break
            found = tried
        return [
            Table(
                [column.header for column in part],
                [list(row) for row in zip(*(column.cells for column in part), strict=True)],
                self.caption if part is found[-1] else "",
                self.numbers_from,
            )
            for part in found
        ]


@dataclass(frozen=True)
class Picture:
    """An SVG image for wide windows and one for narrow ones; `caption` says on which text it was measured."""

    title: str
    wide: str
    narrow: str
    caption: str = ""

    @classmethod
    def drawn(cls, title: str, draw: Draw, caption: str = "") -> "Picture":
        """The picture of a plot, by the function that draws it in a given width in inches."""
        return cls(title, svg(draw(WIDE)), svg(draw(NARROW)), caption)


@dataclass(frozen=True)
class Sample:
    """One prompt and how each model goes on, by the model's name."""

    prompt: str
    continuations: dict[str, str]


@dataclass(frozen=True)
class Page:
    """Everything the page shows, as it stands there.

    Attributes:
        title: heading.
        summary: sentences with the run's figures.
        table: the models side by side.
        warnings: what a reader must know to read the figures rightly.
        texts: for each figure the text it was measured on: (figure, text).
        tables: more tables, each with its heading.
        pictures: plots.
        samples: text from each stage; `sample_note` says how it was made.
        commands: (what it does, the command).
        settings: the recipe.
        facts: versions, machine, seconds, below `facts_title`: (name, value).
    """

    title: str
    summary: list[str]
    table: Table
    warnings: list[str] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    tables: list[tuple[str, Table]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    sample_note: str = ""
    commands: list[tuple[str, str]] = field(default_factory=list)
    settings: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    facts_title: str = "Versions, machine and time"


def render(page: Page) -> str:
    """The page as HTML. All text is escaped, pictures stand in it as data URIs."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = _data_uri
    source = resources.files("secateur.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(page=page)


def _data_uri(image: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(image.encode("utf-8")).decode("ascii")
