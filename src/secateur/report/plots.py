"""Plots of models and of training: perplexity by model, the stages of a run, losses."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from secateur.report.style import (
    ATTENTION,
    INK,
    MLP,
    NEUTRAL,
    TEXT_COLOURS,
    WIDE,
    heading,
    honest_scale,
    is_drawable,
    needs_log,
    plain_label,
    png,
    short_number,
    styled,
)
from secateur.report.tables import Row, perplexities, short_text_name, text_names

NOT_FINITE = "not finite"
# The parts of a training's loss, each drawn on axes of its own: its name, the entry of training, and of evaluation.
LOSSES = (
    ("cross entropy", "cross_entropy", "eval_cross_entropy"),
    ("KL from the teacher", "kl_divergence", "eval_kl_divergence"),
)
WHOLE_LOSS = (("loss", "loss", "eval_loss"), ("loss", "loss", "eval_cross_entropy"))
CURVES = (("training", ATTENTION, "-", 1.2), ("evaluation", MLP, "o-", 1.8))
LONGEST_FIRST = 20
ROW_HEIGHT = 0.42  # inches of a model's name and its bar


def perplexity_plot(rows: Sequence[Row]) -> bytes:
    """Bars of perplexity by model, a panel for each text, as a PNG image. Arguments as `perplexity_figure`."""
    return png(perplexity_figure(rows))


@styled
def perplexity_figure(rows: Sequence[Row], width: float = WIDE) -> Figure:
    """Perplexity by model, a panel for each text; points on a logarithmic axis where one is over 20 times another.

    Args:
        rows: as for `tables.comparison_columns`. The first one's level is dotted.
        width: in inches.
    """
    figure, panels = _panels(rows, len(text_names(rows)), width)
    _draw_perplexities(panels, rows)
    return figure


def stage_plot(rows: Sequence[Row]) -> bytes:
    """Perplexity by stage of a run and the number of parameters, as a PNG image. Arguments as `stage_figure`."""
    return png(stage_figure(rows))


@styled
def stage_figure(rows: Sequence[Row], width: float = WIDE) -> Figure:
    """Perplexity by stage of a run, a panel for each text, above sizes on disk, or numbers of parameters.

    Args:
        rows: as for `tables.comparison_columns`, in the order of the stages. The first one's level is dotted.
        width: in inches.
    """
    figure, panels = _panels(rows, 1 + len(text_names(rows)), width)
    _draw_perplexities(panels, rows)
    sizes = [row.get("size_bytes") or 0 for row in rows]
    if all(sizes):
        _draw_bars(panels[-1], rows, [size / 1e6 for size in sizes], NEUTRAL, "size on disk (MB)")
    else:
        millions = [row["parameters"] / 1e6 for row in rows]
        _draw_bars(panels[-1], rows, millions, NEUTRAL, "parameters (millions)")
    return figure


def loss_curve(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Training and evaluation loss by step as a PNG image. Arguments as `loss_figure`."""
    return png(loss_figure(history))


@styled
def loss_figure(history: Sequence[Mapping[str, Any]], width: float = WIDE) -> Figure:
    """The parts of a training's loss by step, a panel for each: a line for training, points on a line for evaluation.

    Args:
        history: mappings with `step` and any of the entries that `LOSSES` names, as in the Trainer's log history; where
            the training's are missing its `loss` is drawn.
        width: in inches.
    """
    found = {key for row in history for key, value in row.items() if value is not None}
    if found & {training for _, training, _ in LOSSES}:
        panels = [part for part in LOSSES if found & {*part[1:]}]
    else:
        panels = [next((part for part in WHOLE_LOSS if part[2] in found), WHOLE_LOSS[0])]
    figure = Figure(figsize=(width, 0.6 + 2.8 * len(panels)), layout="constrained")
    subplots = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, *keys) in zip(subplots, panels, strict=True):
        drawn: list[float] = []
        for key, (label, colour, style, line_width) in zip(keys, CURVES, strict=True):
            points = [(row["step"], row[key]) for row in history if row.get(key) is not None]
            if points:
                steps, losses = zip(*points, strict=True)
                drawn += [loss for loss in losses if is_drawable(loss)]
                axes.plot(steps, losses, style, color=colour, linewidth=line_width, markersize=4, label=label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.grid(alpha=0.3)
        said = honest_scale(axes, drawn)
        heading(axes, f"{name} (nats per token)" + (f"; {said}" if said else ""))
        if axes.lines:
            axes.legend()
    subplots[-1].set_xlabel("optimiser step")
    return figure


def _panels(rows: Sequence[Row], count: int, width: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, count * (0.75 + ROW_HEIGHT * len(rows))), layout="constrained")
    return figure, list(figure.subplots(count, 1, squeeze=False)[:, 0])


def _draw_perplexities(panels: Sequence[Axes], rows: Sequence[Row]) -> None:
    for index, text in enumerate(text_names(rows)):
        on = f" on {plain_label(short_text_name(text))}" if text else ""
        on += f"; dotted: {plain_label(rows[0]['name'], LONGEST_FIRST)}"
        values = [perplexities(row).get(text) for row in rows]
        finite = [value if value is not None and is_drawable(value) else None for value in values]
        _draw_bars(panels[index], rows, finite, TEXT_COLOURS[index % len(TEXT_COLOURS)], f"perplexity{on}")
        if finite[0] is not None:
            panels[index].axvline(finite[0], color=INK, linewidth=1, linestyle=":")


def _draw_bars(axes: Axes, rows: Sequence[Row], values: Sequence[float | None], colour: str, what: str) -> None:
    """A bar for each row from 0 on, or a point on a logarithmic axis, where a bar has no foot; its name above it."""
    drawn = {place: value for place, value in enumerate(values) if value is not None}
    is_log = needs_log(list(drawn.values()))
    for place, row in enumerate(rows):
        name = plain_label(row["name"])
        _at_the_left(axes, name, place - 0.42, INK)
        if place not in drawn:
            _at_the_left(axes, NOT_FINITE, place, NEUTRAL)
    if is_log:
        axes.plot(list(drawn.values()), list(drawn), "o", color=colour, markersize=8)
        what += f" ({honest_scale(axes, list(drawn.values()), 'x')})"
        low, high = min(drawn.values()), max(drawn.values())
        axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.25)
        axes.grid(axis="x", alpha=0.3)
    else:
        axes.barh(list(drawn), list(drawn.values()), 0.42, color=colour)
        axes.set_xlim(0, 1.22 * max([value for value in drawn.values() if value > 0], default=1.0))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    for place, value in drawn.items():
        axes.annotate(short_number(value), (value, place), (6, 0), textcoords="offset points", va="center")
    axes.set_ylim(len(rows) - 0.6, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(not is_log)
    axes.set_axisbelow(True)
    heading(axes, what)


def _at_the_left(axes: Axes, text: str, place: float, colour: str) -> None:
    beside = axes.get_yaxis_transform()
    axes.annotate(text, (0, place), (4, 0), xycoords=beside, textcoords="offset points", va="center", color=colour)
