"""Defaults that the docs state are those of the code: in the tables of recipes.md, and behind options in sentences."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from secateur.cli.command import Command, _class_at
from secateur.cli.group import Group
from secateur.cli.main import COMMANDS
from secateur.recovery import RecoverConfig
from secateur.runs.recipe import Recipe
from secateur.sparsity import SparsifyConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LEAVES: list[Command] = [
    leaf
    for command in COMMANDS.values()
    for leaf in (command.commands.values() if isinstance(command, Group) else [command])
]
CONFIGS = {leaf.config.partition(":")[2]: _class_at(leaf.config) for leaf in LEAVES if leaf.config}
# Pages that speak of one command; an option on any other page has the default of some command.
OF_PAGES = {
    "allocation.md": ["PruneConfig"],
    "compensation.md": ["PruneConfig"],
    "layer-importance.md": ["PruneConfig"],
    "own-text.md": ["PruneConfig"],
    "structured-pruning.md": ["PruneConfig"],
    "search.md": ["SearchConfig"],
    "quantization.md": ["QuantizeConfig"],
    "weight-sparsity.md": ["SparsifyConfig"],
    "recovery.md": ["RecoverConfig"],
    "evaluation.md": ["EvaluateConfig", "DiagnoseConfig"],
}
# Defaults that depend on other options, by what the code makes of them.
DEPENDENT = {
    ("SparsifyConfig", "damping"): [SparsifyConfig(method=method).ridge for method in ("admm", "sparsegpt")],
    ("SparsifyConfig", "sparsity"): [SparsifyConfig().share],
    ("RecoverConfig", "lr"): [RecoverConfig(method=method).learning_rate for method in ("lora", "full")],
}
NUMBER = r"\d{1,3}(?:,\d{3})+|\d[\d.]*(?:e-?\d+)?"
# `--alpha` (1), `--samples` windows (64), (`--damping`, 0.2), `--lora-target` names (`attention,mlp`)
VALUE = rf"(?P<value>(?:{NUMBER})(?=[,) ])|`[\w,]+`(?=[,)]))"
IN_SENTENCES = re.compile(rf"`(--[a-z0-9-]+)`(?:(?: \w+)? \((?:default )?{VALUE}|, (?P<number>{NUMBER})\b(?! %))")
WORDS = {"three sentences": 3}
SECTION = re.compile(r"^`(\w+)`: .*?\n\n((?:\|.*\n)+)", re.MULTILINE)


def default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def same(stated: str, value: Any) -> bool:
    """Whether a text is a value as the docs write it."""
    text = stated.strip().strip("`")
    if isinstance(value, bool):
        return text == str(value).lower()
    if isinstance(value, list | tuple):
        return text.strip("[]").replace(" ", "") == ",".join(map(str, value))
    if isinstance(value, int | float):
        try:
            return float(text.replace(",", "")) == value
        except ValueError:
            return False
    return text == str(value)


def in_sentences() -> list[tuple[str, str, str]]:
    pages = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "README.zh-CN.md"]
    return [
        (page.name, found[1], found["value"] or found["number"])
        for page in pages
        for found in IN_SENTENCES.finditer(page.read_text(encoding="utf-8").replace("\n", " "))
    ]


def test_there_are_sentences_with_defaults() -> None:
    assert len(in_sentences()) > 20


@pytest.mark.parametrize(("page", "option", "stated"), in_sentences())
def test_defaults_in_sentences(page: str, option: str, stated: str) -> None:
    field = option[2:].replace("-", "_")
    names = [name for name in OF_PAGES.get(page, CONFIGS) if field in CONFIGS[name].model_fields]
    names = names or [name for name in CONFIGS if field in CONFIGS[name].model_fields]
    values = [value for name in names for value in defaults_of(name, field)]
    assert any(same(stated, value) for value in values), f"{page}: {option} ({stated}), the code has {values}"


def defaults_of(name: str, field: str) -> list[Any]:
    return DEPENDENT.get((name, field)) or [default(CONFIGS[name].model_fields[field])]


def in_recipes() -> list[tuple[str, str, str]]:
    """Section, key and stated default, of all tables of recipes.md."""
    rows = []
    for section in SECTION.finditer((DOCS / "recipes.md").read_text(encoding="utf-8")):
        for line in section[2].splitlines()[2:]:
            keys, stated, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:4])
            names = re.findall(r"`(\w+)`", keys)
            values = (
                stated.split(", ") if len(names) > 1 and stated.count(", ") == len(names) - 1 else [stated] * len(names)
            )
            rows += [(section[1], name, value) for name, value in zip(names, values, strict=True)]
    return rows


@pytest.mark.parametrize(("section", "key", "stated"), in_recipes())
def test_defaults_in_the_tables_of_recipes(section: str, key: str, stated: str) -> None:
    config = section_config(section)
    name, value = config.__name__, default(config.model_fields[key])
    if stated.startswith("as in `prune`"):
        assert value == default(section_config("prune").model_fields[key])
    elif (name, key) in DEPENDENT:
        found = [float(number) for number in re.findall(r"\d[\d.]*(?:e-\d+)?", stated)]
        assert found == DEPENDENT[name, key]
    elif stated in WORDS:
        assert len(value) == WORDS[stated]
    elif value is None:
        # What is computed or not there is a word, never a number that the code could not know of.
        assert not re.fullmatch(r"`?[\d.]+`?", stated), f"{section}.{key}: {stated}, the code has none"
    else:
        assert same(stated, value), f"{section}.{key}: {stated}, the code has {value}"


def section_config(section: str) -> type[BaseModel]:
    annotation = Recipe.model_fields[section].annotation
    options = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next(kind for kind in options if issubclass(kind, BaseModel))


def test_descriptions_state_the_defaults_that_depend_on_others() -> None:
    text = str(SparsifyConfig.model_fields["damping"].description)
    stated = [float(value) for value in re.findall(r"([\d.]+) unless given", text)]
    assert stated == DEPENDENT["SparsifyConfig", "damping"]
