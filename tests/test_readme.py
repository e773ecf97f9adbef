"""The README in two languages: the same structure, and the same code but for its comments."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"\s+# .*$", re.MULTILINE)


def blocks(text: str) -> list[tuple[str, str]]:
    """Kind and content of each code block, without comments."""
    return [(kind, COMMENT.sub("", content)) for kind, content in BLOCK.findall(text)]


def prose(text: str) -> list[str]:
    return BLOCK.sub("", text).splitlines()


def table_rows(text: str) -> list[int]:
    """The number of cells of each row of a table; `\\|` separates none."""
    return [len(re.findall(r"(?<!\\)\|", line)) for line in prose(text) if line.startswith("|")]


def headings(text: str) -> list[int]:
    """The level of each heading."""
    return [len(line) - len(line.lstrip("#")) for line in prose(text) if line.startswith("#")]


def links(text: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("README")]


def test_code_is_the_same_but_for_its_comments() -> None:
    assert blocks(CHINESE) == blocks(ENGLISH)


@pytest.mark.parametrize("structure", [headings, table_rows, links], ids=lambda function: function.__name__)
def test_structure_is_the_same(structure) -> None:
    assert structure(CHINESE) == structure(ENGLISH)


def test_options_and_names_are_the_same_in_every_section() -> None:
    def names(text: str) -> list[set[str]]:
        return [set(re.findall(r"`([^`\n]+)`", section)) for section in re.split(r"^## ", text, flags=re.MULTILINE)]

    for english, chinese in zip(names("\n".join(prose(ENGLISH))), names("\n".join(prose(CHINESE))), strict=True):
        assert chinese == english


def test_figures_are_the_same() -> None:
    def figures(text: str) -> list[set[str]]:
        sections = re.split(r"^## ", text, flags=re.MULTILINE)
        return [set(re.findall(r"\d[\d,.]*\d", section)) for section in sections]

    for english, chinese in zip(figures(ENGLISH), figures(CHINESE), strict=True):
        assert chinese == english


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_links_lead_to_files(text: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (ROOT / target).exists(), target


def test_they_link_to_each_other() -> None:
    assert "[中文](README.zh-CN.md)" in ENGLISH
    assert "[English](README.md)" in CHINESE
