"""`docs/json.md` and its JSON Schema: `make schemas` writes their tables from the models of what secateur writes."""

import json
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from secateur.runs.written import FILES, Written

DOCS = Path(__file__).parents[1] / "docs"
PAGE, SCHEMAS = DOCS / "json.md", DOCS / "json-schemas.json"
BEGIN, END = "<!-- files -->\n", "<!-- /files -->\n"
KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything", type(None): "null"}


def require_valid(name: str, file: Path) -> None:
    """Raise pydantic's `ValidationError` where a file is not what the docs say."""
    text = file.read_text(encoding="utf-8")
    other = f"{name} (longrange)"  # of the same name
    FILES[other if other in FILES and "runs" in json.loads(text) else name][1].model_validate_json(text)


def require_valid_below(directory: Path) -> None:
    """As `require_valid`, for all files of a result."""
    for file in directory.rglob("*.json"):
        if file.name in FILES:
            require_valid(file.name, file)


def require_written(words: Sequence[str]) -> None:
    """As `require_valid`, for what a command that has succeeded was to write."""
    named = {option: Path(words[words.index(option) + 1]) for option in ("--json", "-o") if option in words}
    command = " ".join(words[:2] if words[:1] in (["attention"], ["longrange"]) else words[:1])
    name = f"{'compare' if command == 'sweep' else command} --json"
    if "--json" in named and name in FILES:
        require_valid(name, named["--json"])
    if "-o" in named and named["-o"].is_dir():
        require_valid_below(named["-o"])


def page_with_tables(page: str) -> str:
    """The page with the tables as they have to be."""
    head, _, rest = page.partition(BEGIN)
    return head + BEGIN + "\n".join(_tables()) + "\n" + END + rest.partition(END)[2]


def schemas() -> str:
    """The JSON Schema of each file."""
    listed = {name: kind.model_json_schema() for name, (_, kind) in FILES.items()}
    return json.dumps(listed, indent=1, ensure_ascii=False) + "\n"


def _tables() -> Iterator[str]:
    parts: dict[str, type[BaseModel]] = {}
    for name, (where, kind) in FILES.items():
        yield from ("", f"### {name}", "", f"{_said(kind)} Written by {where}.", "", *_table(kind, parts))
    yield from ("", "## Parts", "")
    done: set[str] = set()
    while left := [name for name in parts if name not in done]:
        for name in left:
            done.add(name)
            yield from ("", f"### {name}", "", _said(parts[name]), "", *_table(parts[name], parts))


def _said(kind: type[BaseModel]) -> str:
    return " ".join((kind.__doc__ or "").split())


def _table(kind: type[BaseModel], parts: dict[str, type[BaseModel]]) -> Iterator[str]:
    yield from ("| key | value | what |", "|---|---|---|")
    for name, field in kind.model_fields.items():
        optional = "" if field.is_required() else ", may be missing"
        yield f"| `{field.alias or name}` | {_kind(field.annotation, parts)}{optional} | {field.description or ''} |"


def _kind(annotation: Any, parts: dict[str, type[BaseModel]]) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(inner[0], parts)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_kind(part, parts) for part in inner)
    if origin is list:
        return f"list of: {_kind(inner[0], parts)}"
    if origin is dict:
        return f"by name: {_kind(inner[1], parts)}"
    if isinstance(annotation, type) and issubclass(annotation, Written):
        parts.setdefault(annotation.__name__, annotation)
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return KINDS[annotation]


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMAS.write_text(schemas(), encoding="utf-8")
