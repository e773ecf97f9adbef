"""Several results side by side: the plot of size against quality, the plot of a sweep, and the page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from secateur.console import counted
from secateur.report.html import Draw, Page, Picture
from secateur.report.page import page_table
from secateur.report.style import (
    CHARACTER,
    INK,
    LABEL_BOX,
    NARROW,
    TEXT_COLOURS,
    WIDE,
    fitted,
    heading,
    honest_scale,
    is_drawable,
    plain_label,
    png,
    short_number,
    styled,
)
from secateur.report.tables import (
    Row,
    accuracy,
    comparison_columns,
    mean_accuracy,
    perplexities,
    short_text_name,
    task_names,
    text_names,
    text_notes,
    value_text,
)
from secateur.report.task_tables import row_label, task_page_table

MOST_TASKS_DRAWN = 6
MOST_NAMED, LONGEST_NAMED = 4, 16  # models whose names stand beside their points
MOST_FIGURED = 2  # lines with figures at their points
MOST_TICKS = 6
LEGEND_BELOW = 0.42  # inches
LINE = 0.19  # inches
LEVEL_STYLES = (":", "--", "-.")
Points = dict[str, list[tuple[Row, float]]]


def size_plot(rows: Sequence[Row]) -> bytes:
    """Parameters against perplexity and accuracy, as a PNG image. Arguments as `size_figure`."""
    return png(size_figure(rows))


@styled
def size_figure(rows: Sequence[Row], width: float = WIDE) -> Figure:
    """Parameters against perplexity, and where it was measured against accuracy, a point for each model.

    Args:
        rows: as for `tables.comparison_columns`.
        width: in inches. Where names have no room beside their points, those have numbers, with the names below.
    """
    names = [plain_label(row_label(row)) for row in rows]
    numbered = len(rows) > MOST_NAMED or max(map(len, names)) > LONGEST_NAMED or width <= NARROW
    key = [f"{number} {name}" for number, name in enumerate(names, 1)] if numbered else []
    figure, panels = _panels(rows, width, len(key))
    for axes, points, label in panels:
        labels: dict[tuple[float, float], list[str]] = {}
        labelled: set[int] = set()
        sizes: list[float] = []
        for index, (name, measured) in enumerate(points.items()):
            x = [row["parameters"] / 1e6 for row, _ in measured]
            y = [value for _, value in measured]
            sizes += x
            axes.plot(x, y, "o", color=TEXT_COLOURS[index % len(TEXT_COLOURS)], label=plain_label(name), markersize=6)
            for row, value in measured:
                if id(row) not in labelled:
                    said = str(_place(rows, row)) if numbered else plain_label(row_label(row))
                    labels.setdefault((row["parameters"] / 1e6, value), []).append(said)
                    labelled.add(id(row))
        for (place, value), alike in labels.items():
            _annotate(axes, (", " if numbered else "\n").join(alike), place, value)
        _quality_axis(axes, points, label)
        axes.margins(y=0.18)
        said = honest_scale(axes, sizes, "x")
        axes.set_xlabel(fitted("parameters (millions)" + (f"; {said}" if said else ""), width))
    if key:
        figure.text(0.02, 0.0, "\n".join(key), va="bottom")
    return figure


def _place(rows: Sequence[Row], row: Row) -> int:
    """A row's number in the key, from 1."""
    return next(number for number, other in enumerate(rows, 1) if other is row)


def sweep_plot(rows: Sequence[Row], key: str) -> bytes:
    """Perplexity and accuracy against a swept value, as a PNG image. Arguments as `sweep_figure`."""
    return png(sweep_figure(rows, key))


@styled
def sweep_figure(rows: Sequence[Row], key: str, width: float = WIDE) -> Figure:
    """Perplexity, and where it was measured accuracy, against a swept value; across where no value was given.

    Points of one stage, text or task, and combination of the other values have one colour. A line joins them where
    the values are numbers.

    Args:
        rows: as for `tables.comparison_columns`, those of the sweep with `values`.
        key: the value's place in the recipe, such as `prune.ratio`.
        width: in inches.
    """
    given = [row["values"][key] for row in rows if key in (row.get("values") or {})]
    is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
    ticks = list(dict.fromkeys(map(value_text, given)))
    most = int((width - 0.9) / CHARACTER)

    def place(value: Any) -> float:
        return float(value) if is_numeric else float(ticks.index(value_text(value)))

    figure, panels = _panels(rows, width, legend=key)
    for axes, points, label in panels:
        lines = _lines(points, key)
        for index, (line, measured) in enumerate(lines.items()):
            x, y = zip(*sorted((place(value), quality) for value, quality in measured), strict=True)
            style = "o-" if is_numeric else "o"
            axes.plot(x, y, style, color=TEXT_COLOURS[index % len(TEXT_COLOURS)], label=plain_label(line, most))
            for at, quality in zip(x, y, strict=True) if len(lines) <= MOST_FIGURED else ():
                _annotate(axes, f"{quality:.1%}" if label == "accuracy" else short_number(quality), at, quality)
        for index, (line, quality) in enumerate(_levels(points).items()):
            axes.axhline(
                quality, color=INK, linewidth=1, linestyle=LEVEL_STYLES[index % 3], label=plain_label(line, most)
            )
        axes.set_xlabel(plain_label(key))
        _quality_axis(axes, points, label)
        axes.margins(x=0.12)
        if is_numeric and len(ticks) <= MOST_TICKS:
            axes.set_xticks(sorted({float(value) for value in given}), minor=False)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        elif is_numeric:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        else:
            longest = most // max(len(ticks), 1) + 2
            axes.set_xticks(range(len(ticks)), [plain_label(tick, max(longest, 8)) for tick in ticks])
        below = axes.transAxes + ScaledTranslation(0, -LEGEND_BELOW, figure.dpi_scale_trans)
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below)
    return figure


def _panels(
    rows: Sequence[Row], width: float, lines_below: int = 0, legend: str = ""
) -> tuple[Figure, list[tuple[Axes, Points, str]]]:
    """A panel for perplexity and one for accuracy, of what was measured.

    There is room for a key of so many lines below both, or below each for the legend of a sweep over `legend`.
    """
    measured = [(_perplexity_points(rows), "perplexity"), (_accuracy_points(rows), "accuracy")]
    drawn = [(points, label) for points, label in measured if points] or measured[:1]
    below = LINE * lines_below + (0.1 if lines_below else 0)
    entries = [len(_lines(points, legend)) + len(_levels(points)) if legend else 0 for points, _ in drawn]
    height = 0.3 + (3.9 if width > NARROW else 3.4) * len(drawn) + LINE * max(entries) * len(drawn) + below
    layout = ConstrainedLayoutEngine(rect=(0, below / height, 1, 1 - below / height))
    figure = Figure(figsize=(width, height), layout=layout)
    panels = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
    return figure, [(axes, points, label) for axes, (points, label) in zip(panels, drawn, strict=True)]


def _lines(points: Points, key: str) -> dict[str, list[tuple[Any, float]]]:
    """(swept value, quality) of the rows that have one, by the line that joins them."""
    lines: dict[str, list[tuple[Any, float]]] = {}
    for name, measured in points.items():
        for row, quality in measured:
            values = dict(row.get("values") or {})
            if key in values:
                given = values.pop(key)
                line = row_label({"name": row["name"], "values": values})
                lines.setdefault(line if len(points) == 1 else f"{line}, {name}", []).append((given, quality))
    return lines


def _levels(points: Points) -> dict[str, float]:
    """The quality of the rows that no value was given to."""
    return {
        str(row["name"]) if len(points) == 1 else f"{row['name']}, {name}": quality
        for name, measured in points.items()
        for row, quality in measured
        if not row.get("values")
    }


def comparison_page(
    rows: Sequence[Row],
    *,
    title: str,
    warnings: Sequence[str],
    pictures: Mapping[str, Draw],
    commands: Sequence[tuple[str, str]],
    sources: Sequence[tuple[str, str]],
    settings: str = "",
) -> Page:
    """The page of a comparison.

    Args:
        rows: as for `tables.comparison_columns`.
        title: heading.
        warnings: what a reader must know to read the figures rightly.
        pictures: what draws them, by their headings.
        commands: (what it does, the command).
        sources: (a result's name, where it is).
        settings: the recipe of a sweep.
    """
    notes = text_notes(rows)
    return Page(
        title=title,
        summary=[f"{counted(len(rows), 'model')} out of {counted(len(sources), 'result')}."],
        table=page_table(comparison_columns(rows), notes),
        warnings=list(warnings),
        tables=[("Tasks", task_page_table(rows))] if task_names(rows) else [],
        pictures=[Picture.drawn(name, draw, "; ".join(notes)) for name, draw in pictures.items()],
        commands=list(commands),
        settings=settings,
        facts=list(sources),
        facts_title="The results",
    )


def _perplexity_points(rows: Sequence[Row]) -> Points:
    points = {
        short_text_name(text): [
            (row, value) for row in rows if is_drawable(value := perplexities(row).get(text) or math.nan)
        ]
        for text in text_names(rows)
    }
    return {name: measured for name, measured in points.items() if measured}


def _accuracy_points(rows: Sequence[Row]) -> Points:
    """By task, or where those are many the mean over them."""
    tasks = task_names(rows)
    if len(tasks) > MOST_TASKS_DRAWN:
        mean = [(row, value) for row in rows if (value := mean_accuracy(row, tasks)) is not None]
        return {f"mean of {len(tasks)} tasks": mean} if mean else {}
    points = {
        task: [(row, value) for row in rows if (value := accuracy((row.get("tasks") or {}).get(task))) is not None]
        for task in tasks
    }
    return {task: measured for task, measured in points.items() if measured}


def _annotate(axes: Axes, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), (0, 7), textcoords="offset points", ha="center", bbox=LABEL_BOX)


def _quality_axis(axes: Axes, points: Points, label: str) -> None:
    """The axis of a quality: what it is, on which text, and from where to where the axis goes."""
    names = list(points)
    on = f" on {plain_label(names[0])}" if len(names) == 1 and names[0] else ""
    values = [value for measured in points.values() for _, value in measured]
    said = honest_scale(axes, values, shares=label == "accuracy")
    heading(axes, f"{label}{on}" + (f"; {said}" if said else ""))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    if len(names) > 1:
        axes.legend()
