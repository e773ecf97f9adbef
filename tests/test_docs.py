"""The docs: nothing is missing from the site, and the messages of the troubleshooting page are those of the program."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import secateur

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = {"commands.md"}
sys.path.insert(0, str(DOCS))

import site_hooks  # noqa: E402


def pages(entry: Any) -> list[str]:
    """The files of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    values = entry if isinstance(entry, list) else entry.values()
    return [page for value in values for page in pages(value)]


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert sorted(pages(yaml.safe_load(text)["nav"])) == sorted({path.name for path in DOCS.glob("*.md")} | GENERATED)


def test_the_python_api_is_all_there() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in secateur.__all__:
        assert f"::: secateur.{name}\n" in page or (f"secateur.{name}" in page and name in ("__version__", "attention"))


def test_the_page_of_commands_has_every_option() -> None:
    page = site_hooks.commands_page()
    for text in ("## secateur prune", "### secateur attention tune", "--ratio", "--layer-importance-windows", "Usage:"):
        assert text in page
    assert set(re.findall(r"Usage: (\w+) ", page)) == {"secateur"}


def test_the_first_page_shows_the_figures_of_the_readme() -> None:
    figures = site_hooks.first_figures()
    assert [row["name"] for row in figures] == ["original", "pruned", "recovered"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in figures:
        shown = rf"^{row['name']} +{row['perplexity']['pydocs']:.2f} .* {row['parameters']:,} "
        assert re.search(shown, readme, re.MULTILINE), row
    assert all("parameters (millions)" in site_hooks.first_picture(width) for width in site_hooks.PICTURES.values())


PAGES = sorted(path.name for path in DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_seen_whole(page: str) -> None:
    """A block of code has 80 columns where the window has 1,280 pixels."""
    blocks = re.findall(r"^ *```.*?^ *```", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    started = ("secateur ", "torchrun ", "accelerate launch ")
    lines = [line for block in blocks for line in block.splitlines() if line.lstrip().startswith(started)]
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_formulas_of_a_page_can_be_set(page: str) -> None:
    """What is no formula is refused when the site is built; what is not marked as one stays plain text."""
    pytest.importorskip("latex2mathml", reason="of the extra docs")
    text = re.sub(r"```.*?```|`[^`\n]*`", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    formulas = re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, re.DOTALL)
    for block, inline in formulas:
        assert site_hooks.mathml(block or inline, bool(block)).startswith("<math")
    plain = re.sub(r"\$\$.+?\$\$|\$[^$\n]+\$", "", text, flags=re.DOTALL)
    assert re.findall(r"[‖Σ√λ∂ᵀ⁻]", plain) == []


def messages() -> set[str]:
    """All texts of the program, the literal parts of those with values in them one by one."""
    found = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update(re.split(r"%[\d.]*[sdfg]", node.value))
    return found


def test_messages_are_those_of_the_program() -> None:
    texts = {text.strip(" ;,") for text in messages() if len(text.strip(" ;,")) >= 12}
    rows = [
        line for line in (DOCS / "troubleshooting.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| `"
    ]
    assert len(rows) > 15
    for row in rows:
        message = row.split("`")[1]
        assert any(text in message or message.strip(" …") in text for text in texts), message
