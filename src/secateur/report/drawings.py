"""Pictures of results that only Python shows: what weights hold, and a plan's memory."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from secateur.report.style import ATTENTION, MLP, NEUTRAL, plain_label, png

GB = 1e9


def weights_plot(report: Mapping[str, Any]) -> bytes:
    """The largest absolute value of each weight of a model (`HealthReport.to_dict()`), in the order of the model.

    Returns:
        A PNG image; weights with NaN or infinite values are marked.
    """
    tensors = report["tensors"]
    figure = Figure(figsize=(7.5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    broken = [place for place, tensor in enumerate(tensors) if tensor["nan"] or tensor["infinite"]]
    axes.plot([tensor["largest"] for tensor in tensors], "o", markersize=3, color=NEUTRAL, label="largest value")
    if broken:
        axes.plot(broken, [tensors[place]["largest"] for place in broken], "x", color=MLP, label="NaN or infinite")
        axes.legend(frameon=False, fontsize=9)
    if any(tensor["largest"] > 0 for tensor in tensors):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("weight, in the order of the model")
    axes.set_ylabel("largest absolute value")
    axes.grid(alpha=0.3)
    return png(figure)


def plan_plot(figures: Mapping[str, Any]) -> bytes:
    """Memory of a device in each phase of a plan (`ModelEstimate.to_dict()`), beside what it has.

    Returns:
        A PNG image with a bar for each phase.
    """
    phases = figures["phases"]
    figure = Figure(figsize=(7.5, 0.9 + 0.32 * len(phases)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(phases))
    colours = [ATTENTION if phase["fits"] else MLP for phase in phases]
    bars = axes.barh(places, [phase["memory_bytes"] / GB for phase in phases], 0.7, color=colours)
    axes.bar_label(bars, [f"{phase['memory_bytes'] / GB:,.1f}" for phase in phases], padding=3, fontsize=8)
    axes.set_yticks(places, [plain_label(phase["phase"]) for phase in phases])
    axes.invert_yaxis()
    memory = figures["device_memory_bytes"] / GB
    axes.axvline(memory, color="black", linewidth=1)
    axes.margins(x=0.12)
    axes.set_xlabel(f"GB a device; the line is the {memory:,.0f} GB of {plain_label(figures['device'])}")
    return png(figure)
