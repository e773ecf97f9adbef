"""The docs: nothing is missing from the site, and the messages of the troubleshooting page are those of the program."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

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
    for text in ("## secateur prune", "### secateur attention tune", "--ratio", "--layer-importance-samples", "Usage:"):
        assert text in page


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
