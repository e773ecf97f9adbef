"""The rounds of a search: their table and their picture."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from secateur.report.layout import Column, TextTable
from secateur.report.style import ATTENTION, NEUTRAL, WIDE, heading, honest_scale, png, styled


def search_table(found: Mapping[str, Any]) -> TextTable:
    """Each round's cut: divergence, what attention bears, and what stays whole.

    Args:
        found: content of `search.json`.
    """
    rounds = found["rounds"]
    first = rounds[0]["divergence"]
    return TextTable(
        [
            Column("round", [_name(number, found["best"]) for number in range(len(rounds))], "left"),
            Column("KL divergence", [f"{row['divergence']:.4f}" for row in rounds]),
            Column("change", ["prune's own", *(_change(row["divergence"], first) for row in rounds[1:])]),
            Column("attention bears", [f"{row['attention_share']:.0%}" for row in rounds]),
            Column("layers whole", [str(_whole(row)) for row in rounds]),
            Column("seconds", [f"{row['seconds']:.0f}" for row in rounds]),
        ]
    )


def search_plot(found: Mapping[str, Any]) -> bytes:
    """KL divergence by round and attention's share of the cut, as a PNG image. Arguments as `search_figure`."""
    return png(search_figure(found))


@styled
def search_figure(found: Mapping[str, Any], width: float = WIDE) -> Figure:
    """KL divergence by round, above the share of the cut that attention bears. The best round is marked.

    Args:
        found: content of `search.json`.
        width: in inches.
    """
    rounds, best = found["rounds"], found["best"]
    numbers = range(1, len(rounds) + 1)
    divergences = [row["divergence"] for row in rounds]
    figure = Figure(figsize=(width, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    upper.plot(numbers, divergences, "o", color=NEUTRAL)
    upper.plot([best + 1], [divergences[best]], "o", color=ATTENTION, markersize=10, label="the plan")
    upper.axhline(divergences[0], color=NEUTRAL, linestyle=":", label="prune's own allocation")
    said = honest_scale(upper, divergences)
    heading(upper, "KL divergence from the uncut model (nats per token)" + (f"; {said}" if said else ""))
    upper.legend()
    lower.plot(numbers, [row["attention_share"] for row in rounds], "o", color=ATTENTION)
    lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    lower.set_ylim(0, 1)
    heading(lower, "share of the cut that attention bears")
    lower.set_xlabel("round")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return figure


def _change(divergence: float, first: float) -> str:
    return f"{divergence / first - 1:+.1%}" if first else "–"


def _name(number: int, best: int) -> str:
    return f"{number + 1} (the plan)" if number == best else str(number + 1)


def _whole(row: Mapping[str, Sequence[Sequence[int | None]]]) -> int:
    return sum(not any(halves) for halves in row["taken"])
