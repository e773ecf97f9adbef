"""Plots as PNG images. Nothing here opens a window or needs a display."""

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from secateur.report.figures import keep
from secateur.report.tables import Row, perplexities, short_text_name, text_names

# Okabe and Ito's colours, which people who are colour-blind can tell apart.
ATTENTION, MLP, NEUTRAL = "#0072B2", "#E69F00", "#555555"
TEXT_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FROZEN = "#DDDDDD"
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
DOTS_PER_INCH = 120
LOG_FROM_RANGE = 20
LABEL_WIDTH = 26
LONGEST_LABEL = 48
LARGEST_DRAWN = 1e100


def perplexity_plot(rows: Sequence[Row]) -> bytes:
    """Bars of perplexity by model, one colour per text; logarithmic where one is over 20 times another.

    Args:
        rows: as for `tables.comparison_columns`.

    Returns:
        A PNG image.
    """
    texts = text_names(rows)
    figure = Figure(figsize=(max(6.0, 1.2 + len(rows) * (0.7 + 0.6 * len(texts))), 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(texts)
    for index, text in enumerate(texts):
        bars = {
            place + (index - (len(texts) - 1) / 2) * width: value
            for place, value in enumerate(_finite(rows, text))
            if value is not None
        }
        colour = TEXT_COLOURS[index % len(TEXT_COLOURS)]
        drawn = axes.bar(
            list(bars), list(bars.values()), 0.92 * width, color=colour, label=plain_label(short_text_name(text))
        )
        axes.bar_label(drawn, [_figure(value) for value in bars.values()], padding=2, fontsize=8)
    _mark_missing(axes, rows, texts)
    _label_models(axes, rows, "model")
    _perplexity_axis(axes, rows, texts, from_zero=True)
    axes.margins(y=0.12)
    return png(figure)


def stage_plot(rows: Sequence[Row]) -> bytes:
    """Perplexity by stage of a run, above the number of parameters. The first stage's level is dotted.

    Args:
        rows: as for `tables.comparison_columns`, in the order of the stages.

    Returns:
        A PNG image.
    """
    texts = text_names(rows)
    figure = Figure(figsize=(max(6.0, 1.5 + 1.4 * len(rows)), 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for index, text in enumerate(texts):
        colour = TEXT_COLOURS[index % len(TEXT_COLOURS)]
        points = {place: value for place, value in enumerate(_finite(rows, text)) if value is not None}
        upper.plot(list(points), list(points.values()), "o-", color=colour, label=plain_label(short_text_name(text)))
        for place, value in points.items():
            upper.annotate(
                _figure(value),
                (place, value),
                (0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                bbox=LABEL_BOX,
            )
        if 0 in points:
            upper.axhline(points[0], color=colour, linewidth=1, linestyle=":")
    _mark_missing(upper, rows, texts)
    _perplexity_axis(upper, rows, texts, from_zero=False)
    upper.margins(x=0.15, y=0.2)
    millions = [row["parameters"] / 1e6 for row in rows]
    bars = lower.bar(range(len(rows)), millions, 0.5, color=NEUTRAL)
    lower.bar_label(bars, [f"{value:,.1f}" for value in millions], padding=2, fontsize=9)
    lower.set_ylabel("parameters (millions)")
    lower.margins(y=0.2)
    _label_models(lower, rows, "stage")
    return png(figure)


def loss_curve(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Training loss by step as a line, evaluation loss as points on a line.

    Args:
        history: mappings with `step` and `loss` or `eval_loss` or both, as in the Trainer's log history.

    Returns:
        A PNG image.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    curves = (("loss", "training", ATTENTION, "-", 1.2), ("eval_loss", "evaluation", MLP, "o-", 1.8))
    for key, label, colour, style, width in curves:
        points = [(row["step"], row[key]) for row in history if row.get(key) is not None]
        if points:
            steps, losses = zip(*points, strict=True)
            axes.plot(steps, losses, style, color=colour, linewidth=width, markersize=4, label=label)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False)
    return png(figure)


def pruning_strategy(plan: Mapping[str, Any], importance: Mapping[str, Any] | None = None) -> bytes:
    """What a pruning plan does to each layer: its importance, the rate removed, the units kept.

    Args:
        plan: the content of `pruning_plan.json`.
        importance: the content of `layer_importance.json`; None: the importance in the plan is drawn, if any.

    Returns:
        A PNG image of stacked panels over the layers, with frozen layers shaded.
    """
    layers = plan["layers"]
    numbers = [layer["layer"] for layer in layers]
    scores = importance["importance"] if importance else [layer.get("importance") for layer in layers]
    has_scores = all(score is not None for score in scores)
    panels = 3 if has_scores else 2
    figure = Figure(figsize=(min(7.5 + 0.08 * len(layers), 15), 2.6 * panels + 0.6), layout="constrained")
    axes = list(figure.subplots(panels, 1, sharex=True))
    if has_scores:
        _draw_importance(axes[0], numbers, scores, importance or {})
    _draw_rates(axes[-2], layers)
    _draw_kept(axes[-1], layers)
    for panel in axes:
        _shade_frozen(panel, layers)
        panel.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    axes[-1].set_xlabel("decoder layer")
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True))
    before, after = plan["parameters_before"], plan["parameters_after"]
    removed = f"asked {plan['ratio']:.1%}, removed {plan['reached']:.1%}"
    figure.suptitle(f"{removed}: {before:,} to {after:,} parameters", fontsize=11)
    _strategy_legend(figure, layers)
    return png(figure)


def _draw_importance(
    axes: Axes, numbers: Sequence[int], scores: Sequence[float], importance: Mapping[str, Any]
) -> None:
    unit = importance.get("unit")
    label = "layer importance" + (
        "\n" + textwrap.fill(f"({plain_label(unit, 2 * LABEL_WIDTH)})", LABEL_WIDTH) if unit else ""
    )
    if min(scores) > 0 and max(scores) > LOG_FROM_RANGE * min(scores):
        # Bars have no natural foot on a logarithmic scale.
        axes.plot(numbers, scores, "o", color=NEUTRAL, markersize=5)
        axes.set_yscale("log")
        plain_numbers(axes)
        label += ", log scale"
    else:
        axes.bar(numbers, scores, 0.8, color=NEUTRAL)
    axes.set_ylabel(label, fontsize="small")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _draw_rates(axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    for key, colour, shift in (("attention_rate", ATTENTION, -0.2), ("mlp_rate", MLP, 0.2)):
        places = [layer["layer"] + shift for layer in layers]
        axes.bar(places, [layer[key] for layer in layers], 0.4, color=colour)
    for layer in layers:
        axes.hlines(layer["rate"], layer["layer"] - 0.45, layer["layer"] + 0.45, color="black", linewidth=1.5)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("removed\n(share of parameters)")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _draw_kept(axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    """Kept units as bars in outlines of what was there; both scales end at the widest layer before."""
    channels = axes.twinx()
    for panel, key, colour, shift, label in (
        (axes, "num_key_value_heads", ATTENTION, -0.2, "KV groups kept"),
        (channels, "intermediate_size", MLP, 0.2, "MLP channels kept"),
    ):
        places = [layer["layer"] + shift for layer in layers]
        before, after = zip(*(layer[key] for layer in layers), strict=True)
        panel.bar(places, before, 0.4, color="none", edgecolor=colour, linewidth=0.6)
        panel.bar(places, after, 0.4, color=colour)
        panel.set_ylim(0, 1.08 * max(before))
        panel.set_ylabel(label, color=colour)
        panel.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        panel.tick_params(axis="y", colors=colour)


def _shade_frozen(axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    for layer in layers:
        if layer["frozen"]:
            axes.axvspan(layer["layer"] - 0.5, layer["layer"] + 0.5, color=FROZEN, zorder=0, linewidth=0)


def _strategy_legend(figure: Figure, layers: Sequence[Mapping[str, Any]]) -> None:
    handles: list[Artist] = [
        Patch(color=ATTENTION, label="attention (KV groups)"),
        Patch(color=MLP, label="MLP (channels)"),
        Line2D([], [], color="black", linewidth=1.5, label="whole layer"),
        Patch(facecolor="none", edgecolor=NEUTRAL, label="before the cut"),
    ]
    if any(layer["frozen"] for layer in layers):
        handles.append(Patch(color=FROZEN, label="frozen"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


def sparsity_map(zeros: Mapping[str, Any]) -> bytes:
    """A heat map of each matrix's share of zeros: layers across, projections down. Uncut ones are left white.

    Args:
        zeros: the content of `sparsity.json`.

    Returns:
        A PNG image.
    """
    matrices = zeros["matrices"]
    names = list(dict.fromkeys(matrix["name"] for matrix in matrices))
    layers = range(min(matrix["layer"] for matrix in matrices), 1 + max(matrix["layer"] for matrix in matrices))
    shares = [[math.nan] * len(layers) for _ in names]
    for matrix in matrices:
        shares[names.index(matrix["name"])][matrix["layer"] - layers.start] = matrix["sparsity"]
    drawn = [share for row in shares for share in row if not math.isnan(share)]
    # Shares that are all alike would be stretched over the whole scale.
    low, high = min(*drawn, zeros["asked"] - 0.05), max(*drawn, zeros["asked"] + 0.05)
    figure, axes = _heat_map(shares, layers.start, (low, high), "zeros (share of weights)", 0.3)
    axes.set_yticks(range(len(names)), [plain_label(name, LABEL_WIDTH) for name in names])
    axes.set_title(f"{zeros['zeros']:,} zeros, {zeros['reached']:.1%} of these weights", fontsize=10)
    return png(figure)


def attention_map(profile: Mapping[str, Any]) -> bytes:
    """A heat map of the blocks that each head leaves out: layers across, heads down. Untuned layers are left white.

    Args:
        profile: the figures of `AttentionProfile.to_dict`.

    Returns:
        A PNG image.
    """
    layers = profile["layers"]
    first, last = layers[0]["layer"], layers[-1]["layer"]
    heads = max(len(layer["sparsity"]) for layer in layers)
    shares = [[math.nan] * (last - first + 1) for _ in range(heads)]
    for layer in layers:
        for head, sparsity in enumerate(layer["sparsity"]):
            shares[head][layer["layer"] - first] = sparsity
    figure, axes = _heat_map(shares, first, (0, 1), "left out (share of blocks)", 0.22)
    axes.set_ylabel("query head")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{profile['mean_sparsity']:.1%} of the blocks left out, mean over heads", fontsize=10)
    return png(figure)


def _heat_map(
    shares: Sequence[Sequence[float]], first: int, scale: tuple[float, float], label: str, height: float
) -> tuple[Figure, Axes]:
    """Shares by layer, the first of which is `first`, across a row of `height` inches for each sequence."""
    size = (max(6.0, 2.5 + 0.22 * len(shares[0])), 1.7 + height * len(shares))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, aspect="auto", cmap="cividis", vmin=scale[0], vmax=scale[1])
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place + first:.0f}"))
    figure.colorbar(image, ax=axes, format=PercentFormatter(1.0)).set_label(label)
    return figure, axes


def _finite(rows: Sequence[Row], text: str) -> list[float | None]:
    values = [perplexities(row).get(text) for row in rows]
    return [value if value is not None and is_drawable(value) else None for value in values]


def is_drawable(value: float) -> bool:
    """Whether an axis can hold a value and the margin beyond it."""
    return math.isfinite(value) and abs(value) <= LARGEST_DRAWN


def _mark_missing(axes: Axes, rows: Sequence[Row], texts: Sequence[str]) -> None:
    for place, row in enumerate(rows):
        if all(_finite([row], text)[0] is None for text in texts):
            axes.annotate("not finite", (place, 0.02), xycoords=("data", "axes fraction"), ha="center", color=NEUTRAL)


def _label_models(axes: Axes, rows: Sequence[Row], what: str) -> None:
    axes.set_xticks(range(len(rows)), [plain_label(row["name"]) for row in rows])
    if sum(len(plain_label(row["name"])) for row in rows) > 12 * max(len(rows), 4):
        axes.tick_params(axis="x", labelrotation=20)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.set_xlabel(what)


def _perplexity_axis(axes: Axes, rows: Sequence[Row], texts: Sequence[str], from_zero: bool) -> None:
    values = [value for text in texts for value in _finite(rows, text) if value is not None]
    named = f" on {plain_label(short_text_name(texts[0]))}" if len(texts) == 1 and texts[0] else ""
    scale = perplexity_scale(axes, values)
    axes.set_ylabel(f"perplexity{named}{scale}")
    if from_zero and not scale:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if len(texts) > 1:
        axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)


def perplexity_scale(axes: Axes, values: Sequence[float]) -> str:
    """Make the axis logarithmic where one value is over 20 times another. Returns what its label says then."""
    if not values or max(values) <= LOG_FROM_RANGE * min(values):
        return ""
    axes.set_yscale("log")
    plain_numbers(axes)
    return " (log scale)"


def plain_numbers(axes: Axes) -> None:
    """Label a logarithmic axis with plain numbers. Matplotlib's own labels are formulas, and none is drawn here."""
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_formatter(NullFormatter())


def plain_label(text: object, longest: int = LONGEST_LABEL) -> str:
    """A text from outside as a label: on one line, its middle left out where it is long."""
    plain = re.sub(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+", " ", str(text)).strip()
    if len(plain) > longest:
        plain = f"{plain[: longest // 2]}…{plain[1 - longest // 2 :]}"
    # Matplotlib leaves what is called like _this out of legends.
    return f" {plain}" if plain.startswith("_") else plain


def _figure(value: float) -> str:
    return f"{value:.2g}" if value >= 1e7 else f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}"


def _plain(value: float, _position: int | None = None) -> str:
    return f"{value:.0e}" if value >= 1e7 else f"{value:,.10g}"


def png(figure: Figure) -> bytes:
    """The figure as a PNG image. A `$` in a text is a dollar sign, and no formula."""
    keep(figure)
    image = io.BytesIO()
    FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False}):  # for labels of ticks, which are made when they are drawn
        figure.savefig(image, format="png", dpi=DOTS_PER_INCH, metadata={"Software": "secateur"})
    return image.getvalue()
