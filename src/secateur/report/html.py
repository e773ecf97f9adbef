"""The HTML page of a run: one file that needs no network, no script and no other file."""

import base64
from dataclasses import dataclass, field
from importlib import resources

import jinja2

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Table:
    """Cells as text. Columns from `numbers_from` on are aligned to the right."""

    header: list[str]
    rows: list[list[str]]
    caption: str = ""
    numbers_from: int = 1


@dataclass(frozen=True)
class Picture:
    """A PNG image; `caption` says what it shows and on which text that was measured."""

    title: str
    png: bytes
    caption: str = ""


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


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
