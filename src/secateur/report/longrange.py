"""Learned sparse attention: tables of runs, and pictures of the switch and of the patterns."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from secateur.report.layout import Column, TextTable
from secateur.report.style import (
    ATTENTION,
    INK,
    NARROW,
    NEUTRAL,
    TEXT_COLOURS,
    WIDE,
    fitted,
    heading,
    honest_scale,
    log_scale,
    plain_label,
    png,
    styled,
)
from secateur.report.tables import MISSING

WIDEST = 4  # panels in a row
TALLEST = 4.0  # inches of one
REASONS = {
    "settled": "every layer's attention has settled",
    "num_dense_train_steps": "the latest step allowed, num_dense_train_steps",
}


def longrange_table(results: Sequence[Mapping[str, Any]]) -> TextTable:
    """Accuracy, step times and memory of runs.

    Args:
        results: contents of `results.json`.
    """
    switches = [row["switched"] for row in results]
    columns = [
        Column("run", [str(row["name"]) for row in results], "left"),
        Column("accuracy", [f"{row['accuracy']:.1%}" for row in results]),
        Column("commonest", [f"{row['majority']:.1%}" for row in results]),
        Column("sparse from", [MISSING if step is None else f"{step:,}" for step in switches]),
        Column("density", [MISSING if row["density"] is None else f"{row['density']:.3f}" for row in results]),
        *_by_kind(results, "step_ms", "ms", ".0f", 1.0),
        *_by_kind(results, "memory_bytes", "MB", ".0f", 1e-6),
    ]
    return TextTable(columns)


def _by_kind(results: Sequence[Mapping[str, Any]], key: str, unit: str, form: str, factor: float) -> list[Column]:
    columns = []
    for kind in ("dense", "sparse"):
        values = [row[key].get(kind) for row in results]
        cells = [MISSING if value is None else format(factor * value, form) for value in values]
        columns.append(Column(f"{kind} {unit}", cells))
    return columns


def prepared_table(meta: Mapping[str, Any]) -> TextTable:
    """What a prepared task holds.

    Args:
        meta: content of `meta.json`.
    """
    splits = list(meta["statistics"])
    rows = [meta["statistics"][split] for split in splits]
    return TextTable(
        [
            Column("split", splits, "left"),
            Column("examples", [f"{row['rows']:,}" for row in rows]),
            Column("tokens, mean", [f"{row['mean_length']:,.0f}" for row in rows]),
            Column("median", [f"{row['median_length']:,.0f}" for row in rows]),
            Column("longest", [f"{row['longest']:,}" for row in rows]),
            Column("commonest class", [f"{max(row['class_shares']):.1%}" for row in rows]),
        ]
    )


def switch_plot(results: Mapping[str, Any]) -> bytes:
    """When a run's attention became sparse and why, as a PNG image. Arguments as `switch_figure`."""
    return png(switch_figure(results))


@styled
def switch_figure(results: Mapping[str, Any], width: float = WIDE) -> Figure:
    """Skewness and change of the distance of each layer by step with the thresholds, and accuracy on dev.

    Args:
        results: content of `results.json`, with `history`, `evaluations`, `skewness`, `distance` and `switched`.
        width: in inches.
    """
    history, evaluations = results["history"], results["evaluations"]
    figure = Figure(figsize=(width, 8.5), layout="constrained")
    skewness, change, accuracy = figure.subplots(3, 1, sharex=True)
    steps = [entry["step"] for entry in history]
    layers = len(history[0]["layers"]) if history else 0
    for index in range(layers):
        colour, label = TEXT_COLOURS[index % len(TEXT_COLOURS)], f"layer {index}"
        for axes, key in ((skewness, "skewness"), (change, "change_percent")):
            points = [entry["layers"][index][key] for entry in history]
            axes.plot(
                steps,
                [float("nan") if value is None else value for value in points],
                color=colour,
                marker=".",
                label=label,
            )
    for axes, key, label in (
        (skewness, "skewness", "skewness of each layer's attention (no unit)"),
        (change, "distance", "change of the distance of each layer's attention (percent, log scale)"),
    ):
        axes.axhline(results[key], color=NEUTRAL, linestyle="--", linewidth=1)
        heading(axes, f"{label}; dashed: the threshold, {results[key]:g}")
    changes = [layer["change_percent"] for entry in history for layer in entry["layers"]]
    drawn = [change for change in changes if change is not None and change > 0] or [1.0]
    log_scale(change, min(drawn), max(drawn))
    points = [(entry["step"], entry["accuracy"]) for entry in evaluations]
    accuracy.plot(*zip(*points, strict=True) if points else ([], []), "o-", color=ATTENTION, markersize=4)
    said = honest_scale(accuracy, [value for _, value in points], shares=True)
    heading(accuracy, "accuracy on dev" + (f"; {said}" if said else ""))
    accuracy.set_xlabel("optimiser step")
    accuracy.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for axes in (skewness, change, accuracy):
        axes.grid(alpha=0.3)
        if results["switched"] is not None:
            axes.axvline(results["switched"], color=INK, linewidth=1.5)
    figure.legend(*change.get_legend_handles_labels(), loc="outside lower left", ncols=4 if width > NARROW else 2)
    if results["switched"] is not None:
        why = REASONS.get(results["reason"], results["reason"])
        said = f"sparse from step {results['switched']:,} (black line): {plain_label(why, 80)}"
        figure.suptitle(fitted(said, width), x=0.01, ha="left")
    return figure


def pattern_plot(patterns: Sequence[Sequence[Sequence[bool]]], block_size: int) -> bytes:
    """The kept blocks of each layer as a PNG image. Arguments as `pattern_figure`."""
    return png(pattern_figure(patterns, block_size))


@styled
def pattern_figure(patterns: Sequence[Sequence[Sequence[bool]]], block_size: int, width: float = WIDE) -> Figure:
    """The kept blocks of each layer: keys across, queries down.

    Args:
        patterns: of each layer rows of key blocks.
        block_size: tokens in a block.
        width: in inches.
    """
    columns = min(len(patterns), WIDEST)
    rows = -(-len(patterns) // columns)
    size = width / WIDEST if len(patterns) >= WIDEST else min(width / columns, TALLEST)
    figure = Figure(figsize=(size * columns, (size + 0.3) * rows + 0.3), layout="constrained")
    for index, blocks in enumerate(patterns):
        axes = figure.add_subplot(rows, columns, index + 1)
        end = block_size * len(blocks)
        axes.imshow(blocks, cmap="Blues", vmin=0, vmax=1, extent=(0, end, end, 0), interpolation="nearest")
        kept = sum(map(sum, blocks)) / (len(blocks) * len(blocks[0]))
        axes.set_title(f"layer {index}: {kept:.1%} kept")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axes.set_xlabel("key (token)")
        axes.set_ylabel("query (token)")
    figure.suptitle("blocks of the attention: dark ones are kept", x=0.01, ha="left")
    return figure
