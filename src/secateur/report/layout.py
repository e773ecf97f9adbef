"""Columns of text laid out for a width: no cell is ever cut, and a line ends only between words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

GAP = 2
HEADER_STYLE = "bold"
NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class Column:
    """A column of a table as text.

    Attributes:
        header: what stands above it. Its lines may end at any space.
        cells: one for each row. Those on the left may be continued on a next line, at a space that is not a
            no-break space; figures, on the right, never are.
        justify: the side that cells stand on.
        joined: whether it stays beside the column before it where a table is split.
        styles: of cells, by their text.
    """

    header: str
    cells: list[str]
    justify: Literal["left", "right"] = "right"
    joined: bool = False
    styles: Mapping[str, str] = field(default_factory=dict)


class TextTable:
    """A table without lines that is laid out for the terminal that it is printed on; off a terminal it is wide.

    What does not fit beside the rest stands in a second table below, with the same labels; where not even one figure
    fits beside a label, each row stands as lines below its label.
    """

    def __init__(self, columns: Sequence[Column], title: str | None = None, labels: int = 1) -> None:
        """Take the columns, the first `labels` of which say what a row is about."""
        self.columns = list(columns)
        self.title = title
        self.labels = labels

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield from self.texts(options.max_width if console.is_terminal else None)

    def lines(self, width: int | None = None) -> list[str]:
        """The table as plain lines of at most `width` characters, but for words that are longer; None: any width."""
        return [text.plain for text in self.texts(width)]

    def texts(self, width: int | None = None) -> Iterator[Text]:
        """The same with styles."""
        if not self.columns:
            return
        if self.title:
            yield _text([(self.title, "italic")])
        parts = split(self.columns, width, self.labels)
        if parts is None and width is not None:
            yield from _records(self.columns, width, self.labels)
            return
        for number, part in enumerate(parts or []):
            if number:
                yield _text([])
            yield from _table(part, _widths(part, width) or [])


def split(columns: Sequence[Column], width: int | None, labels: int = 1) -> list[list[Column]] | None:
    """Columns as one table or several that each fit a width, all of them with the labels.

    Args:
        columns: the first `labels` of them say what a row is about.
        width: in characters; None: any.
        labels: how many columns do so.

    Returns:
        The columns of each table; None where a label and a figure do not fit beside each other.
    """
    names, figures = list(columns[:labels]), list(columns[labels:])
    atoms: list[list[Column]] = []
    for before, column in zip([None, *figures], figures, strict=False):
        if column.joined and atoms and _widths([*names, *atoms[-1], column], width):
            atoms[-1].append(column)
        elif column.joined and before is not None:
            atoms.append([replace(column, header=f"{column.header} of {before.header}")])
        else:
            atoms.append([column])
    parts: list[list[Column]] = [names]
    for atom in atoms:
        if _widths([*parts[-1], *atom], width):
            parts[-1] = [*parts[-1], *atom]
        elif _widths([*names, *atom], width):
            parts.append([*names, *atom])
        else:
            return None
    if len(parts) > 1 and len(parts[0]) == len(names):
        del parts[0]
    return parts if all(_widths(part, width) for part in parts) else None


def _widths(columns: Sequence[Column], width: int | None) -> list[int] | None:
    """How wide each column is, where they fit. First headers give way, then phrases and labels."""
    wide = [max(_cells_width(column), cell_len(_flat(column.header))) for column in columns]
    if width is None:
        return wide
    room = width - GAP * (len(columns) - 1)
    if sum(wide) <= room:
        return wide
    least = [max(_least(column), _longest_word(column.header)) for column in columns]
    if sum(least) > room:
        return None
    cells = [max(_cells_width(column), start) for column, start in zip(columns, least, strict=True)]
    given = least
    for wanted in (cells, wide):
        for index in sorted(range(len(columns)), key=lambda index: wanted[index] - given[index]):
            given[index] += min(max(wanted[index] - given[index], 0), room - sum(given))
    return given


def _least(column: Column) -> int:
    """The narrowest that a column's cells can be."""
    if column.justify == "right":
        return _cells_width(column)
    return max((_longest_word(cell) for cell in column.cells), default=0)


def _cells_width(column: Column) -> int:
    return max((cell_len(line) for cell in column.cells for line in cell.split("\n")), default=0)


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in _flat(text).split(" ")), default=0)


def _flat(text: str) -> str:
    return text.replace("\n", " ")


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, each ended at a space where the next word would pass `width`."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in filter(None, paragraph.split(" ")):
            longer = f"{line} {word}" if line else word
            if line and cell_len(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _table(columns: Sequence[Column], widths: Sequence[int]) -> Iterator[Text]:
    """Header and rows; a header stands on the bottom of its row, a cell at the top."""
    fitted = [_fitted(column, width) for column, width in zip(columns, widths, strict=True)]
    headers = [header for header, _ in fitted]
    height = max(map(len, headers))
    headers = [[""] * (height - len(header)) + header for header in headers]
    sizes = [
        max((cell_len(line) for lines in (header, *cells) for line in lines), default=0)
        for header, (_, cells) in zip(headers, fitted, strict=True)
    ]
    if any(any(header) for header in headers):
        yield from _row(columns, headers, sizes, [HEADER_STYLE] * len(columns))
    for row, cells in enumerate(zip(*(cells for _, cells in fitted), strict=True)):
        styles = [column.styles.get(column.cells[row], "") for column in columns]
        yield from _row(columns, cells, sizes, styles)


def _fitted(column: Column, width: int) -> tuple[list[str], list[list[str]]]:
    """Lines of the header and of each cell."""
    header = wrapped(_flat(column.header), width)
    if column.justify == "right":
        return header, [cell.split("\n") for cell in column.cells]
    return header, [wrapped(cell, width) for cell in column.cells]


def _row(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], sizes: Sequence[int], styles: Sequence[str]
) -> Iterator[Text]:
    for number in range(max(map(len, cells))):
        pieces: list[tuple[str, str]] = []
        for column, lines, size, style in zip(columns, cells, sizes, styles, strict=True):
            text = lines[number] if number < len(lines) else ""
            padding = " " * (size - cell_len(text))
            before, after = (padding, "") if column.justify == "right" else ("", padding)
            pieces += [(before, ""), (text, style), (after + " " * GAP, "")]
        yield _text(pieces)


def _records(columns: Sequence[Column], width: int, labels: int) -> Iterator[Text]:
    """Each row as lines: its labels, and its figures below them with their headers before them."""
    for row in range(max((len(column.cells) for column in columns), default=0)):
        for column in columns[:labels]:
            for line in wrapped(column.cells[row], width):
                yield _text([(line, column.styles.get(column.cells[row], HEADER_STYLE))])
        for column in columns[labels:]:
            cell = replace(column, cells=[column.cells[row]])
            shown = _flat(cell.cells[0])
            if cell.justify == "right":
                shown = NO_BREAK + shown.replace(" ", NO_BREAK)
            said = f"{_flat(cell.header)}{'' if cell.justify == 'right' else ' '}{shown}"
            for line in wrapped(said.strip(), width - GAP):
                yield _text([(" " * GAP + line, "")])


def _text(pieces: Sequence[tuple[str, str]]) -> Text:
    """A line of styled pieces without blanks at its end, which is never broken or cut."""
    text = Text(no_wrap=True, overflow="ignore")
    for content, style in pieces:
        text.append(content.replace(NO_BREAK, " "), style or None)
    text.rstrip()
    return text
