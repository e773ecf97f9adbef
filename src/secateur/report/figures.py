"""Figures that plots draw, before they become images: for `.plot()` of results."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from matplotlib.figure import Figure

_drawn: ContextVar[list[Figure] | None] = ContextVar("drawn", default=None)


def keep(figure: Figure) -> None:
    """Hand a figure to whoever asked by `figure_of`; each that becomes an image is."""
    drawn = _drawn.get()
    if drawn is not None:
        drawn.append(figure)


def figure_of(plot: Callable[..., bytes], *arguments: Any) -> Figure:
    """What a plot draws, of which a notebook shows the image although pyplot does not know the figure."""
    drawn: list[Figure] = []
    token = _drawn.set(drawn)
    try:
        image = plot(*arguments)
    finally:
        _drawn.reset(token)
    figure = drawn[-1]
    figure._repr_png_ = lambda: image  # type: ignore[attr-defined]
    return figure
