"""Heat maps over the layers: where zeros are and what they cost, which blocks heads leave out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from secateur.report.style import NARROW, PAPER, WIDE, fitted, heading, plain_label, png, styled

ALIKE = 0.005  # shares that differ by less look the same
LONGEST_NAME = 26


def sparsity_map(zeros: Mapping[str, Any]) -> bytes:
    """Where the zeros of a model are and what they cost, as a PNG image. Arguments as `sparsity_figure`."""
    return png(sparsity_figure(zeros))


@styled
def sparsity_figure(zeros: Mapping[str, Any], width: float = WIDE) -> Figure:
    """Heat maps of each matrix's share of zeros, and of its squared norm that the zeros took; uncut ones are left out.

    A map of shares that are all alike, as with N:M, says nothing: the other stands alone then.

    Args:
        zeros: the content of `sparsity.json`.
        width: in inches.
    """
    matrices = zeros["matrices"]
    names = list(dict.fromkeys(matrix["name"] for matrix in matrices))
    first = min(matrix["layer"] for matrix in matrices)
    count = 1 + max(matrix["layer"] for matrix in matrices) - first

    def grid(key: str) -> list[list[float]]:
        values = [[math.nan] * count for _ in names]
        for matrix in matrices:
            value = matrix.get(key)
            values[names.index(matrix["name"])][matrix["layer"] - first] = math.nan if value is None else value
        return values

    shares = [matrix["sparsity"] for matrix in matrices]
    lost = [matrix["norm_lost"] for matrix in matrices if matrix.get("norm_lost") is not None]
    maps = []
    if not lost or max(shares) - min(shares) > ALIKE:
        # Shares that are all alike would be stretched over the whole scale.
        low, high = min(*shares, zeros["asked"] - 0.05), max(*shares, zeros["asked"] + 0.05)
        maps.append(("sparsity", max(low, 0.0), min(high, 1.0), "share of weights that are zero"))
    if lost:
        top = max(*lost, 0.01)
        maps.append(("norm_lost", 0.0, top, "share of the squared norm that was in those weights"))
    height = 0.9 + len(maps) * (1.2 + 0.24 * len(names))
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(maps), 1, squeeze=False)[:, 0]
    for axes, (key, low, high, label) in zip(panels, maps, strict=True):
        _draw_map(axes, grid(key), first, (low, high))
        axes.set_yticks(range(len(names)), [plain_label(name, LONGEST_NAME) for name in names])
        heading(axes, f"{label}; colours from {low:.1%} to {high:.1%}")
    pattern = _pattern(matrices)
    said = f"{zeros['zeros']:,} zeros, {zeros['reached']:.1%} of these weights{pattern}"
    figure.suptitle(fitted(said, width), x=0.01, ha="left")
    return figure


def _pattern(matrices: Sequence[Mapping[str, Any]]) -> str:
    """`, 2:4 in every row`, where all matrices have one pattern."""
    patterns = {matrix.get("pattern") for matrix in matrices}
    pattern = patterns.pop() if len(patterns) == 1 else None
    if not pattern:
        return ""
    kept, _, group = str(pattern).partition(":")
    return f": {kept} of every {group} neighbours in a row are kept"


def attention_map(profile: Mapping[str, Any]) -> bytes:
    """The blocks that each head leaves out, as a PNG image. Arguments as `attention_figure`."""
    return png(attention_figure(profile))


@styled
def attention_figure(profile: Mapping[str, Any], width: float = WIDE) -> Figure:
    """A heat map of the blocks that each head leaves out: layers across, heads down. Untuned layers are left out.

    Args:
        profile: the figures of `AttentionProfile.to_dict`.
        width: in inches.
    """
    layers = profile["layers"]
    first, last = layers[0]["layer"], layers[-1]["layer"]
    heads = max(len(layer["sparsity"]) for layer in layers)
    shares = [[math.nan] * (last - first + 1) for _ in range(heads)]
    for layer in layers:
        for head, sparsity in enumerate(layer["sparsity"]):
            shares[head][layer["layer"] - first] = sparsity
    figure = Figure(figsize=(width, 1.9 + 0.22 * heads), layout="constrained")
    axes = figure.add_subplot()
    _draw_map(axes, shares, first, (0, 1))
    axes.set_ylabel("query head")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    mean = profile["mean_sparsity"]
    heading(axes, f"share of blocks left out, {mean:.1%} in the mean over heads; colours from 0% to 100%")
    return figure


def _draw_map(axes: Axes, shares: Sequence[Sequence[float]], first: int, scale: tuple[float, float]) -> None:
    """Shares by layer, the first of which is `first`, with their colours below; what is not a number is left out."""
    rows, columns = len(shares), len(shares[0])
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    mesh = axes.pcolormesh(
        [column - 0.5 for column in range(columns + 1)],
        [row - 0.5 for row in range(rows + 1)],
        shares,
        cmap="cividis",
        vmin=scale[0],
        vmax=scale[1],
        edgecolor=PAPER,
        linewidth=0.4,
    )
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlabel("decoder layer")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=20 if figure.get_figwidth() > NARROW else 8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place + first:.0f}"))
    bar = figure.colorbar(mesh, ax=axes, format=PercentFormatter(1.0), orientation="horizontal", aspect=40, pad=0.02)
    bar.locator = MaxNLocator(nbins=5)
    bar.update_ticks()
    bar.outline.set_visible(False)
