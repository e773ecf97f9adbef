"""Learned sparse attention: tables of runs, and pictures of the switch and of the patterns."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from secateur.report.layout import Column, TextTable
from secateur.report.plots import ATTENTION, NEUTRAL, TEXT_COLOURS, plain_label, plain_numbers, png
from secateur.report.tables import MISSING

WIDEST = 4
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
    """Skewness and change of the distance of each layer by step with the thresholds, and accuracy on dev.

    Args:
        results: content of `results.json`, with `history`, `evaluations`, `skewness`, `distance` and `switched`.

    Returns:
        A PNG image.
    """
    history, evaluations = results["history"], results["evaluations"]
    figure = Figure(figsize=(8, 8.5), layout="constrained")
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
        (skewness, "skewness", "skewness"),
        (change, "distance", "change of the distance\n(percent)"),
    ):
        axes.axhline(results[key], color=NEUTRAL, linestyle="--", linewidth=1, label=f"threshold, {results[key]:g}")
        axes.set_ylabel(label)
        axes.legend(frameon=False, fontsize=8, ncols=3)
    change.set_yscale("log")
    plain_numbers(change)
    points = [(entry["step"], entry["accuracy"]) for entry in evaluations]
    accuracy.plot(*zip(*points, strict=True) if points else ([], []), "o-", color=ATTENTION, markersize=4)
    accuracy.set_ylabel("accuracy on dev")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    accuracy.set_xlabel("optimiser step")
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (skewness, change, accuracy):
        axes.grid(alpha=0.3)
        if results["switched"] is not None:
            axes.axvline(results["switched"], color="black", linewidth=1.5)
    if results["switched"] is not None:
        why = REASONS.get(results["reason"], results["reason"])
        figure.suptitle(f"sparse from step {results['switched']:,} (black line): {plain_label(why, 80)}", fontsize=11)
    return png(figure)


def pattern_plot(patterns: Sequence[Sequence[Sequence[bool]]], block_size: int) -> bytes:
    """The kept blocks of each layer: keys across, queries down.

    Args:
        patterns: of each layer rows of key blocks.
        block_size: tokens in a block.

    Returns:
        A PNG image.
    """
    columns = min(len(patterns), WIDEST)
    rows = -(-len(patterns) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.3 * rows + 0.3), layout="constrained")
    for index, blocks in enumerate(patterns):
        axes = figure.add_subplot(rows, columns, index + 1)
        end = block_size * len(blocks)
        axes.imshow(blocks, cmap="Blues", vmin=0, vmax=1, extent=(0, end, end, 0), interpolation="nearest")
        kept = sum(map(sum, blocks)) / (len(blocks) * len(blocks[0]))
        axes.set_title(f"layer {index}: {kept:.1%} kept (dark)", fontsize=10)
        axes.set_xlabel("key (token)")
        axes.set_ylabel("query (token)")
    return png(figure)
