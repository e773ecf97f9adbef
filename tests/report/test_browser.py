"""Pages as a reader sees them: in a browser, on a telephone, a tablet and a desk, in light and in dark."""

import io
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from browser import BROWSER, DRIVER, Browser, browser
from matplotlib import image
from run_figures import importance, metrics, plan, sweep_rows, zeros

from secateur.report import comparison_page, render, run_page
from secateur.report.comparison import size_figure, sweep_figure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with chromedriver here"),
]
SMALLEST = 11  # pixels of a text
WIDTHS = (390, 800, 1280)
KEPT = "SECATEUR_SCREENSHOTS"
# What is wider than the window or than what it stands in, texts too small to read, and how pictures are shown.
LOOK = r"""
const wide = [], small = [], pictures = [];
for (const element of document.querySelectorAll("body *")) {
  const box = element.getBoundingClientRect();
  if (!box.width) continue;
  const what = element.tagName + "." + element.className + " " + element.textContent.trim().slice(0, 40);
  if (box.right > innerWidth + 0.5 || box.left < -0.5) wide.push(what);
  const style = getComputedStyle(element);
  const cuts = style.overflowX !== "visible" || element.matches("td, th");
  if (cuts && element.scrollWidth > element.clientWidth + 1) wide.push(what);
  if (parseFloat(style.fontSize) < arguments[0]) small.push(what);
  if (element.tagName === "IMG") pictures.push({
    source: atob(element.currentSrc.split(",")[1]), width: box.width, natural: element.naturalWidth,
  });
}
const hidden = [...document.querySelectorAll(".figures td")].map(cell => cell.textContent).filter(Boolean);
return {
  scroll: document.documentElement.scrollWidth, wide, small, pictures,
  tables: [...document.querySelectorAll(".figures")].filter(table => table.getBoundingClientRect().width).length,
  shown: document.body.innerText, cells: [...new Set(hidden)],
};
"""


def written_pages(directory: Path) -> dict[str, Path]:
    """A run with everything in it, and a comparison of a sweep."""
    rows = sweep_rows(3)
    pictures = {"Quality": partial(sweep_figure, rows, "prune.ratio"), "Size": partial(size_figure, rows)}
    figures = {"plan": plan(12, allocation="inverse"), "importance": importance(12), "zeros": zeros(12)}
    notes = {"warnings": ["Mind."], "commands": [("All", "x")], "sources": [("a", "b")]}
    pages = {
        "run": run_page(metrics(), **figures, settings="a: b"),
        "comparison": comparison_page(rows, title="Comparison", pictures=pictures, **notes),
    }
    for name, page in pages.items():
        (directory / f"{name}.html").write_text(render(page), encoding="utf-8")
    return {name: directory / f"{name}.html" for name in pages}


def test_everything_is_seen_and_legible(tmp_path: Path) -> None:
    """One test, since the pages and the browser take longer than what is looked at."""
    pages = written_pages(tmp_path)
    with browser(tmp_path / "profile") as window:
        for name, page in pages.items():
            for width in WIDTHS:
                window.open(page, width, "light")
                _check(window.call("execute/sync", script=LOOK, args=[SMALLEST]), name, width)
                _keep(window, f"{name}-{width}-light")
        window.open(pages["run"], WIDTHS[0], "dark")
        shot = image.imread(io.BytesIO(window.shot()), format="png")[::2, ::2, :3]
        assert (shot.mean(-1) < 0.25).mean() > 0.6  # a picture on white would be light
        assert (shot.min(-1) > 0.98).mean() < 0.001
        for name, page in pages.items():
            for width in WIDTHS if os.environ.get(KEPT) else ():
                window.open(page, width, "dark")
                _keep(window, f"{name}-{width}-dark")


def _check(seen: dict[str, Any], name: str, width: int) -> None:
    assert seen["scroll"] <= width, (name, width)
    assert seen["wide"] == [] and seen["small"] == [], (name, width)
    shown = seen["shown"].split()
    assert all(word in shown for cell in seen["cells"] for word in cell.split()), (name, width)
    assert width > 699 or seen["tables"] == 2
    assert len(seen["pictures"]) == (4 if name == "run" else 2)
    assert len({picture["width"] for picture in seen["pictures"]}) == 1
    for picture in seen["pictures"]:
        assert _smallest_text(picture) >= SMALLEST, (name, width)


def _smallest_text(picture: dict[str, Any]) -> float:
    """The smallest text of an SVG image in pixels, as it is shown."""
    source = picture["source"]
    drawn = float(re.search(r'viewBox="0 0 ([\d.]+)', source)[1])  # type: ignore[index]
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", source)]
    assert sizes and "<text" in source
    return min(sizes) * picture["width"] / drawn


def _keep(window: Browser, name: str) -> None:
    """Where `SECATEUR_SCREENSHOTS` names a directory, put a picture of the page there, to be looked at."""
    if directory := os.environ.get(KEPT):
        (Path(directory) / f"{name}.png").write_bytes(window.shot())
