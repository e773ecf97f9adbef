"""Several results side by side: the plot of size against quality, the plot of a sweep, and the page."""

import numbers
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from secateur.report.html import Page, Picture
from secateur.report.page import page_table
from secateur.report.plots import LABEL_BOX, TEXT_COLOURS, perplexity_scale, png
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
Points = dict[str, list[tuple[Row, float]]]


def size_plot(rows: Sequence[Row]) -> bytes:
    """Parameters against perplexity, and where it was measured against accuracy, a point for each model.

    Args:
        rows: as for `tables.comparison_columns`.

    Returns:
        A PNG image.
    """
    panels = [(_perplexity_points(rows), "perplexity"), (_accuracy_points(rows), "accuracy")]
    drawn = [(points, label) for points, label in panels if points] or panels[:1]
    figure = Figure(figsize=(7.5, 0.5 + 4.2 * len(drawn)), layout="constrained")
    for axes, (points, label) in zip(figure.subplots(len(drawn), 1, squeeze=False)[:, 0], drawn, strict=True):
        labels: dict[tuple[float, float], list[str]] = {}
        labelled: set[int] = set()
        for index, (name, measured) in enumerate(points.items()):
            x = [row["parameters"] / 1e6 for row, _ in measured]
            y = [value for _, value in measured]
            axes.plot(x, y, "o", color=TEXT_COLOURS[index % len(TEXT_COLOURS)], label=name, markersize=6)
            for row, value in measured:
                if id(row) not in labelled:
                    labels.setdefault((row["parameters"] / 1e6, value), []).append(row_label(row))
                    labelled.add(id(row))
        for (place, value), alike in labels.items():
            _annotate(axes, "\n".join(alike), place, value)
        axes.set_xlabel("parameters (millions)")
        axes.margins(x=0.2, y=0.18)
        _quality_axis(axes, points, label)
    return png(figure)


def sweep_plot(rows: Sequence[Row], key: str) -> bytes:
    """Perplexity, and where it was measured accuracy, against a swept value; dotted where no value was given.

    Args:
        rows: as for `tables.comparison_columns`, those of the sweep with `values`.
        key: the value's place in the recipe, such as `prune.ratio`.

    Returns:
        A PNG image with a line for each stage, text or task, and combination of the other values.
    """
    panels = [(_perplexity_points(rows), "perplexity"), (_accuracy_points(rows), "accuracy")]
    drawn = [(points, label) for points, label in panels if points] or panels[:1]
    figure = Figure(figsize=(7.5, 0.5 + 4.2 * len(drawn)), layout="constrained")
    ticks = list(dict.fromkeys(value_text(row["values"][key]) for row in rows if key in (row.get("values") or {})))
    is_numeric = all(
        isinstance(row["values"][key], numbers.Real) and not isinstance(row["values"][key], bool)
        for row in rows
        if key in (row.get("values") or {})
    )
    for axes, (points, label) in zip(figure.subplots(len(drawn), 1, squeeze=False)[:, 0], drawn, strict=True):
        lines: dict[str, list[tuple[float, float]]] = {}
        for name, measured in points.items():
            for row, value in measured:
                values = dict(row.get("values") or {})
                if key not in values:
                    continue
                given = values.pop(key)
                others = row_label({"name": row["name"], "values": values})
                line = others if len(points) == 1 else f"{others}, {name}"
                place = float(given) if is_numeric else float(ticks.index(value_text(given)))
                lines.setdefault(line, []).append((place, value))
        for index, (line, places) in enumerate(lines.items()):
            x, y = zip(*sorted(places), strict=True)
            axes.plot(x, y, "o-", color=TEXT_COLOURS[index % len(TEXT_COLOURS)], label=line)
            for place, value in places:
                _annotate(axes, f"{value:.1%}" if label == "accuracy" else f"{value:,.1f}", place, value)
        for name, measured in points.items():
            for row, value in measured:
                if not row.get("values"):
                    what = str(row["name"]) if len(points) == 1 else f"{row['name']}, {name}"
                    axes.axhline(value, color="black", linewidth=1, linestyle=":", label=what)
        if not is_numeric:
            axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlabel(key)
        axes.margins(x=0.12, y=0.18)
        _quality_axis(axes, points, label)
        axes.legend(frameon=False, fontsize=9)
    return png(figure)


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
        short_text_name(text): [(row, value) for row in rows if (value := perplexities(row).get(text)) is not None]
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
    axes.annotate(
        text, (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8, bbox=LABEL_BOX, parse_math=False
    )


def _quality_axis(axes: Axes, points: Points, label: str) -> None:
    names = list(points)
    on = f" on {names[0]}" if len(names) == 1 and names[0] else ""
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
