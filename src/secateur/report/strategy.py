"""The picture of a pruning plan: what the cut went by, took and left, layer by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from secateur.console import flag
from secateur.report.style import (
    ATTENTION,
    FROZEN,
    INK,
    MLP,
    NARROW,
    NEUTRAL,
    WIDE,
    fitted,
    heading,
    honest_scale,
    needs_log,
    plain_label,
    png,
    styled,
)

LONGEST_UNIT = 60
BY_LAYER = ("inverse", "proportional")  # allocations that go by the scores of layers


def pruning_strategy(plan: Mapping[str, Any], importance: Mapping[str, Any] | None = None) -> bytes:
    """What a pruning plan does to each layer, as a PNG image. Arguments as `strategy_figure`."""
    return png(strategy_figure(plan, importance))


@styled
def strategy_figure(
    plan: Mapping[str, Any], importance: Mapping[str, Any] | None = None, width: float = WIDE
) -> Figure:
    """What a pruning plan does to each layer: the rate removed, the units kept.

    Args:
        plan: the content of `pruning_plan.json`.
        importance: the content of `layer_importance.json`, for the unit of the scores.
        width: in inches.

    Returns:
        Stacked panels over the layers, with frozen layers shaded. Scores of the layers are drawn where the cut went
        by them, limits of rates where there were any.
    """
    layers = plan["layers"]
    scores = scores_used(plan, importance)
    panels = 4 if scores else 3
    figure = Figure(figsize=(width, 1.75 * panels + 1.1), layout="constrained")
    axes = list(figure.subplots(panels, 1, sharex=True))
    if scores:
        _draw_importance(axes[0], layers, scores, (importance or {}).get("unit"))
    limits = _rate_limits(plan)
    _draw_rates(axes[-3], layers, limits)
    _draw_kept(axes[-2], layers, "num_key_value_heads", ATTENTION, "KV groups kept")
    _draw_kept(axes[-1], layers, "intermediate_size", MLP, "MLP channels kept")
    numbers = [layer["layer"] for layer in layers]
    for panel in axes:
        _shade_frozen(panel, layers)
        panel.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    axes[-1].set_xlabel("decoder layer")
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=20 if width > NARROW else 8, integer=True))
    before, after = plan["parameters_before"], plan["parameters_after"]
    asked = (plan.get("target") or {}).get("asked") or f"{plan['ratio']:.1%}"
    removed = f"asked {asked}, removed {plan['reached']:.1%}: {before:,} to {after:,} parameters"
    figure.suptitle(fitted(removed, width), x=0.01, ha="left")
    _legend(figure, layers, limits, 5 if width > NARROW else 2)
    return figure


def scores_used(plan: Mapping[str, Any], importance: Mapping[str, Any] | None) -> list[float] | None:
    """The scores of the layers, where the cut went by them: with an allocation by layer and no plan to follow."""
    settings = plan.get("settings") or {}
    if settings.get("allocation") not in BY_LAYER or settings.get("even") or settings.get("plan"):
        return None
    scores = importance["importance"] if importance else [layer.get("importance") for layer in plan["layers"]]
    return None if any(score is None for score in scores) else list(scores)


def _rate_limits(plan: Mapping[str, Any]) -> dict[str, float]:
    """The limits that a cut kept to, by their option: one that follows a plan has none, what is dropped passes them."""
    settings = plan.get("settings") or {}
    rates = [layer["rate"] for layer in plan["layers"] if not layer["frozen"]]
    if settings.get("plan") or settings.get("target") == "depth" or not rates:
        return {}
    kept = {"max_rate": lambda limit: max(rates) <= limit, "min_rate": lambda limit: min(rates) >= limit}
    limits = {name: settings.get(name) for name in kept}
    return {
        flag(name): limit
        for name, limit in limits.items()
        if isinstance(limit, int | float) and 0 < limit < 1 and kept[name](limit)
    }


def _draw_importance(axes: Axes, layers: Sequence[Mapping[str, Any]], scores: Sequence[float], unit: Any) -> None:
    numbers = [layer["layer"] for layer in layers]
    label = "layer importance, which the cut went by" + (f": {plain_label(unit, LONGEST_UNIT)}" if unit else "")
    if needs_log(scores):
        # Bars have no natural foot on a logarithmic scale.
        axes.plot(numbers, scores, "o", color=NEUTRAL, markersize=4)
        label += f" ({honest_scale(axes, scores)})"
    else:
        axes.bar(numbers, scores, 0.8, color=NEUTRAL)
    heading(axes, label)


def _draw_rates(axes: Axes, layers: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> None:
    for key, colour, shift in (("attention_rate", ATTENTION, -0.2), ("mlp_rate", MLP, 0.2)):
        places = [layer["layer"] + shift for layer in layers]
        axes.bar(places, [layer[key] for layer in layers], 0.4, color=colour)
    numbers = [layer["layer"] for layer in layers]
    axes.hlines(
        [layer["rate"] for layer in layers],
        [number - 0.45 for number in numbers],
        [number + 0.45 for number in numbers],
        color=INK,
        linewidth=1.5,
    )
    for limit in limits.values():
        axes.axhline(limit, color=INK, linewidth=1, linestyle="--")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(0, 1)
    heading(axes, "removed (share of parameters)")


def _draw_kept(axes: Axes, layers: Sequence[Mapping[str, Any]], key: str, colour: str, label: str) -> None:
    """Kept units as bars in outlines of what was there."""
    numbers = [layer["layer"] for layer in layers]
    before, after = zip(*(layer[key] for layer in layers), strict=True)
    axes.bar(numbers, before, 0.8, color="none", edgecolor=colour, linewidth=0.6)
    axes.bar(numbers, after, 0.8, color=colour)
    axes.set_ylim(0, 1.08 * max(*before, 1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    heading(axes, f"{label} (outlined: before the cut)")


def _shade_frozen(axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    for layer in layers:
        if layer["frozen"]:
            axes.axvspan(layer["layer"] - 0.5, layer["layer"] + 0.5, color=FROZEN, zorder=0, linewidth=0)


def _legend(figure: Figure, layers: Sequence[Mapping[str, Any]], limits: Mapping[str, float], columns: int) -> None:
    handles: list[Artist] = [
        Patch(color=ATTENTION, label="attention"),
        Patch(color=MLP, label="MLP"),
        Line2D([], [], color=INK, linewidth=1.5, label="whole layer"),
    ]
    if limits:
        said = ", ".join(f"{option} {limit:.0%}" for option, limit in limits.items())
        handles.append(Line2D([], [], color=INK, linewidth=1, linestyle="--", label=said))
    if any(layer["frozen"] for layer in layers):
        handles.append(Patch(color=FROZEN, label="frozen"))
    figure.legend(handles=handles, loc="outside lower left", ncols=columns)
