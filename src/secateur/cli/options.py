"""Command-line options out of the fields of a pydantic model, so that every default and help text stands once."""

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from secateur.console import flag
from secateur.errors import OptionError
from secateur.files.option_names import earlier_names
from secateur.files.shares import hint
from secateur.wording import asked_by

Config = TypeVar("Config", bound=BaseModel)

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A hub id, a model directory, a .gguf file, or smollm2-135m."),
]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL", help="Hub ids, model directories, .gguf files or smollm2-135m; the first is the baseline."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the result goes.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what secateur wrote to the output directory, unfinished work included. Anything else is refused.",
    ),
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures to this file.")]

MAIN_PANEL = "Options"

METAVARS: dict[object, str] = {int: "NUMBER", float: "NUMBER", Path: "PATH"}


class UsageError(OptionError):
    """The command line is wrong: exit status 2."""

    def __init__(self, message: str) -> None:
        with asked_by("command line"):
            super().__init__(message)


def option_parameters(
    config: type[BaseModel], panels: Mapping[str, Sequence[str]] | None = None
) -> list[inspect.Parameter]:
    """One parameter with a Typer option for each field of a pydantic model, hidden ones for the names they had before.

    Every option is None until its user gives it, so that the model's own default applies; the help shows it.
    Numbers and choices stay text here: pydantic reads and checks them.

    Args:
        config: the model.
        panels: headings of the help text, and the fields below each in their order; what is in none goes below the
            name of the class that declares it where that is not `config` itself.
    """
    panels = panels or {}
    panel_of = {field: panel for panel, fields in panels.items() for field in fields}
    inherited = {name: _inherited_panel(config, name) for name in config.model_fields}
    listed = list(panel_of)

    def place(name: str) -> tuple[int, int]:
        """The most used options, then those below no heading, then panel by panel."""
        if name in panel_of:
            return 0 if panel_of[name] == MAIN_PANEL else 2, listed.index(name)
        return 1 if inherited[name] is None else 3, 0

    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=... if config.model_fields[name].is_required() else None,
            annotation=_annotation(name, config.model_fields[name], panel_of.get(name) or inherited[name]),
        )
        for name in sorted(config.model_fields, key=place)
    ] + [
        inspect.Parameter(earlier, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_hidden(earlier))
        for earlier in earlier_names(config)
    ]


def validated(config: type[Config], given: Mapping[str, Any]) -> Config:
    """Build the pydantic model of a command from the options that were given.

    Args:
        config: the model.
        given: by field name; None where the option was not given. Lists may hold comma-separated text.

    Raises:
        UsageError: a value is refused; the message names the option.
    """
    values = {
        name: _split(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None and value != []
    }
    try:
        return config(**values)
    except ValidationError as error:
        raise UsageError("; ".join(_complaint(dict(problem)) for problem in error.errors())) from error


def _hidden(earlier: str) -> Any:
    """An option by the name that it had before."""
    return Annotated[str | None, typer.Option(flag(earlier), hidden=True)]


def _annotation(name: str, field: FieldInfo, panel: str | None) -> Any:
    bare = _without_none(field.annotation)
    declarations = [flag(name)]
    if bare is bool:
        kind: Any = bool
        declarations = [f"{flag(name)}/--no-{flag(name)[2:]}"]
    elif typing.get_origin(bare) in (list, tuple, set, frozenset):
        kind = list[str]
    else:
        kind = str
    option = typer.Option(
        *declarations,
        help=_help(field),
        metavar=_metavar(bare),
        show_default=False,
        rich_help_panel=panel,
    )
    return Annotated[kind if field.is_required() else kind | None, option]


def _help(field: FieldInfo) -> str:
    """The field's description and its default, in one text that wraps well in a narrow terminal."""
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined or default is None or default in ("", [], (), {}):
        shown = ""
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    elif isinstance(default, list | tuple):
        shown = ",".join(map(str, default))
    else:
        shown = str(default)
    description = (field.description or "").strip()
    return f"{description} [default: {shown}]".strip() if shown else description


LONGEST_CHOICES = 60  # characters: more do not fit beside an option's name at 80 columns


def _metavar(kind: Any) -> str | None:
    """What stands behind the option: the choices of a Literal, nothing for a boolean."""
    if kind is bool:
        return None
    origin = typing.get_origin(kind)
    if origin is Literal:
        choices = "|".join(map(str, typing.get_args(kind)))
        return choices if len(choices) <= LONGEST_CHOICES else "NAME"
    if origin in (list, tuple, set, frozenset):
        inner = typing.get_args(kind)
        return f"{METAVARS.get(_without_none(inner[0]), 'NAME')},…" if inner else "NAME,…"
    return METAVARS.get(kind, "TEXT")


def _without_none(annotation: Any) -> Any:
    """`int | None` becomes `int`; a union of several types stays what it is."""
    if typing.get_origin(annotation) is Annotated:
        return _without_none(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        left = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return _without_none(left[0]) if len(left) == 1 else annotation
    return annotation


def _inherited_panel(config: type[BaseModel], name: str) -> str | None:
    declaring = next(base for base in reversed(config.__mro__) if name in getattr(base, "__annotations__", {}))
    if declaring is config:
        return None
    return (inspect.getdoc(declaring) or declaring.__name__).splitlines()[0].rstrip(".")


def _split(values: list[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _complaint(problem: Mapping[str, Any]) -> str:
    location, message = problem["loc"], str(problem["msg"]).removeprefix("Value error, ")
    if not location:
        return message
    message = message[0].lower() + message[1:]
    return f"{flag(str(location[0]))} {_shown(problem['input'])}: {message}{hint(problem)}"


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
