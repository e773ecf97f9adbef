"""Several results side by side: the plot of size against quality, the plot of a sweep, and the page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from secateur.report.html import Page, Picture
from secateur.report.page import page_table
from secateur.report.plots import LABEL_BOX, TEXT_COLOURS, is_drawable, perplexity_scale, plain_label, png
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
LONGEST_LINE = 80
LEVEL_STYLES = (":", "--", "-.")
Points = dict[str, list[tuple[Row, float]]]


def size_plot(rows: Sequence[Row]) -> bytes:
    """Parameters against perplexity, and where it was measured against accuracy, a point for each model.

    Args:
        rows: as for `tables.comparison_columns`.

    Returns:
        A PNG image.
    """
    figure, panels = _panels(rows)
    for axes, points, label in panels:
        labels: dict[tuple[float, float], list[str]] = {}
        labelled: set[int] = set()
        for index, (name, measured) in enumerate(points.items()):
            x = [row["parameters"] / 1e6 for row, _ in measured]
            y = [value for _, value in measured]
            axes.plot(x, y, "o", color=TEXT_COLOURS[index % len(TEXT_COLOURS)], label=plain_label(name), markersize=6)
            for row, value in measured:
                if id(row) not in labelled:
                    labels.setdefault((row["parameters"] / 1e6, value), []).append(plain_label(row_label(row)))
                    labelled.add(id(row))
        for (place, value), alike in labels.items():
            _annotate(axes, "\n".join(alike), place, value)
        axes.set_xlabel("parameters (millions)")
        axes.margins(x=0.2, y=0.18)
        _quality_axis(axes, points, label)
    return png(figure)


def sweep_plot(rows: Sequence[Row], key: str) -> bytes:
    """Perplexity, and where it was measured accuracy, against a swept value; across where no value was given.

    Args:
        rows: as for `tables.comparison_columns`, those of the sweep with `values`.
        key: the value's place in the recipe, such as `prune.ratio`.

    Returns:
        A PNG image with a line for each stage, text or task, and combination of the other values.
    """
    given = [row["values"][key] for row in rows if key in (row.get("values") or {})]
    is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
    ticks = list(dict.fromkeys(map(value_text, given)))

    def place(value: Any) -> float:
        return float(value) if is_numeric else float(ticks.index(value_text(value)))

    figure, panels = _panels(rows)
    for axes, points, label in panels:
        for index, (line, measured) in enumerate(_lines(points, key).items()):
            x, y = zip(*sorted((place(value), quality) for value, quality in measured), strict=True)
            axes.plot(x, y, "o-", color=TEXT_COLOURS[index % len(TEXT_COLOURS)], label=plain_label(line, LONGEST_LINE))
            for at, quality in zip(x, y, strict=True):
                _annotate(axes, f"{quality:.1%}" if label == "accuracy" else f"{quality:,.1f}", at, quality)
        for index, (line, quality) in enumerate(_levels(points).items()):
            axes.axhline(
                quality,
                color="black",
                linewidth=1,
                linestyle=LEVEL_STYLES[index % 3],
                label=plain_label(line, LONGEST_LINE),
            )
        if not is_numeric:
            axes.set_xticks(range(len(ticks)), [plain_label(tick) for tick in ticks])
        axes.set_xlabel(plain_label(key))
        axes.margins(x=0.12, y=0.18)
        _quality_axis(axes, points, label)
        axes.legend(frameon=False, fontsize=9)
    return png(figure)


def _panels(rows: Sequence[Row]) -> tuple[Figure, list[tuple[Axes, Points, str]]]:
    """A panel for perplexity and one for accuracy, of what was measured."""
    measured = [(_perplexity_points(rows), "perplexity"), (_accuracy_points(rows), "accuracy")]
    drawn = [(points, label) for points, label in measured if points] or measured[:1]
    figure = Figure(figsize=(7.5, 0.5 + 4.2 * len(drawn)), layout="constrained")
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
    pictures: Mapping[str, bytes],
    commands: Sequence[tuple[str, str]],
    sources: Sequence[tuple[str, str]],
    settings: str = "",
) -> Page:
    """The page of a comparison.

    Args:
        rows: as for `tables.comparison_columns`.
        title: heading.
        warnings: what a reader must know to read the figures rightly.
        pictures: PNG images by their headings.
        commands: (what it does, the command).
        sources: (a result's name, where it is).
        settings: the recipe of a sweep.
    """
    notes = text_notes(rows)
    return Page(
        title=title,
        summary=[f"{len(rows)} models out of {len(sources)} results."],
        table=page_table(comparison_columns(rows), notes),
        warnings=list(warnings),
        tables=[("Tasks", task_page_table(rows))] if task_names(rows) else [],
        pictures=[Picture(heading, image, "; ".join(notes)) for heading, image in pictures.items()],
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
    axes.annotate(text, (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8, bbox=LABEL_BOX)


def _quality_axis(axes: Axes, points: Points, label: str) -> None:
    names = list(points)
    on = f" on {plain_label(names[0])}" if len(names) == 1 and names[0] else ""
    if label == "perplexity":
        scale = perplexity_scale(axes, [value for measured in points.values() for _, value in measured])
        axes.set_ylabel(f"perplexity{on}{scale}")
    else:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylabel(f"accuracy{on}")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=9)
