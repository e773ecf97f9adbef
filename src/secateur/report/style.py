"""What all plots share: colours, sizes, labels and scales, and figures as PNG and SVG images.

Nothing here opens a window or needs a display. A plot is a function that returns a figure of a given width: a page
shows it in two widths, each with text of the same size.
"""

import functools
import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from secateur.report.figures import keep

# Okabe and Ito's colours, which people who are colour-blind can tell apart.
ATTENTION, MLP, NEUTRAL = "#0072B2", "#E69F00", "#555555"
TEXT_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FROZEN, PAPER, INK = "#DDDDDD", "#FFFFFF", "#000000"
LABEL_BOX = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5, "alpha": 0.8}

# In inches. An inch of an SVG image is 96 pixels of a page: 864, and 358 on a telephone of 390.
WIDE, NARROW = 9.0, 3.73
DOTS_PER_INCH = 120
FONT_SIZE = 9.5  # points: 12.7 pixels of a page, and 11.3 where a wide picture is shown on 768
CHARACTER = 7.2 / 96  # inches
AXIS = 0.65  # inches of an axis with its labels

LOG_FROM_RANGE = 20
LONGEST_LABEL = 48
LARGEST_DRAWN = 1e100

STYLE: dict[Any, Any] = {
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": FONT_SIZE + 0.5,
    "legend.fontsize": FONT_SIZE,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "svg.fonttype": "none",
    "svg.hashsalt": "secateur",
    # A `$` in a text is a dollar sign, and no formula.
    "text.parse_math": False,
}
# What stands for the page's own colours in an image that is shown on it.
PAGE_COLOURS = {INK: "currentColor", PAPER: "var(--paper)", NEUTRAL: "var(--neutral)", FROZEN: "var(--frozen)"}
PAGE_STYLE = (
    ":root{color:#1c1f23;--paper:#fff;--neutral:#555;--frozen:#ddd}"
    "@media(prefers-color-scheme:dark){:root{color:#e4e7eb;--paper:#15181c;--neutral:#9aa3ae;--frozen:#353b43}}"
    "text{fill:currentColor}"
)

Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Make a function draw in the style of all plots."""

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **options: Arguments.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*args, **options)

    return drawn


def png(figure: Figure) -> bytes:
    """The figure as a PNG image on white."""
    keep(figure)
    image = io.BytesIO()
    FigureCanvasAgg(figure)
    with rc_context(STYLE):  # for labels of ticks, which are made when they are drawn
        figure.savefig(image, format="png", dpi=DOTS_PER_INCH, metadata={"Software": "secateur"})
    return image.getvalue()


def svg(figure: Figure) -> str:
    """The figure as an SVG image without a ground, with text as text, in light or dark colours as the page has them."""
    image = io.StringIO()
    FigureCanvasSVG(figure)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(STYLE):
        figure.savefig(image, format="svg", transparent=True, metadata=nothing)
    drawn = image.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for colour, of_page in PAGE_COLOURS.items():
        drawn = drawn.replace(colour.lower(), of_page)
    return drawn.replace("<defs>", f"<defs><style>{PAGE_STYLE}</style>", 1)


def heading(axes: Axes, text: str) -> None:
    """Say above a panel, on its left, what it shows and in which unit, in lines that fit it."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes.set_title(fitted(text, figure.get_figwidth() - AXIS))


def fitted(text: str, width: float) -> str:
    """A text in lines that fit so many inches."""
    return textwrap.fill(text, int((width - 0.1) / CHARACTER))


def is_drawable(value: float) -> bool:
    """Whether an axis can hold a value and the margin beyond it."""
    return math.isfinite(value) and abs(value) <= LARGEST_DRAWN


def needs_log(values: Sequence[float]) -> bool:
    """Whether one value is over 20 times another."""
    return bool(values) and min(values) > 0 and max(values) > LOG_FROM_RANGE * min(values)


def honest_scale(axes: Axes, values: Sequence[float], which: str = "y", *, shares: bool = False) -> str:
    """Let an axis end at ticks, or make it logarithmic where one value is over 20 times another.

    Args:
        axes: of which one axis is scaled, x or y as in `which`.
        values: that are drawn.
        shares: whether they are shares, which are written in percent and never on a logarithmic axis.

    Returns:
        What a label must say of it: where it begins and ends, but for one that begins at 0.
    """
    axis, limits = (axes.yaxis, axes.set_ylim) if which == "y" else (axes.xaxis, axes.set_xlim)
    if not values:
        return ""
    low, high = min(values), max(values)
    form = ".1%" if shares else ",.4g"
    if needs_log(values) and not shares:
        log_scale(axes, low, high, which)
        return f"log scale, {low:{form}} to {high:{form}}"
    spread = (high - low) or abs(high) or 1.0
    start = 0.0 if 0 <= low < high / 2 else low - 0.1 * spread
    ticks = MaxNLocator(nbins=6).tick_values(start, high + 0.1 * spread)
    axis.set_major_locator(MaxNLocator(nbins=6))
    limits(ticks[0], ticks[-1])
    if shares:
        axis.set_major_formatter(PercentFormatter(1.0))
    return "" if ticks[0] == 0 else f"the axis goes from {ticks[0]:{form}} to {ticks[-1]:{form}}"


def log_scale(axes: Axes, low: float, high: float, which: str = "y") -> None:
    """Make an axis logarithmic, with plain numbers: Matplotlib's own labels are formulas, and none is drawn here."""
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    axis = axes.yaxis if which == "y" else axes.xaxis
    steps = (1, 2, 5) if high < 50 * low else (1, 3) if high < 1000 * low else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def plain_label(text: object, longest: int = LONGEST_LABEL) -> str:
    """A text from outside as a label: on one line, its middle left out where it is long."""
    plain = re.sub(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+", " ", str(text)).strip()
    if len(plain) > longest:
        plain = f"{plain[: longest // 2]}…{plain[1 - longest // 2 :]}"
    # Matplotlib leaves what is called like _this out of legends.
    return f" {plain}" if plain.startswith("_") else plain


def short_number(value: float) -> str:
    """`12.3`, `1,234`, `1.2e+07`."""
    if abs(value) >= 1e7:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _plain(value: float, _position: int | None = None) -> str:
    return f"{value:.0e}" if value >= 1e7 else f"{value:,.10g}"
