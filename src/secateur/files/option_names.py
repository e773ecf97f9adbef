"""Options that had another name: it is still taken, on the command line, in recipes and files, and in Python.

The earlier names stand in the `earlier_names` of the class whose fields they are. From where options come in, all goes
by their present names.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, model_validator

from secateur.files.option_kinds import model_of
from secateur.files.yaml_text import Place


class Renamed(BaseModel):
    """Options of which some had another name."""

    earlier_names: ClassVar[Mapping[str, str]] = {}  # the present names by the earlier ones

    @model_validator(mode="before")
    @classmethod
    def _take_earlier_names(cls, values: Any) -> Any:
        return by_present_names(cls, values) if isinstance(values, dict) else values


def earlier_names(kind: type[BaseModel]) -> dict[str, str]:
    """The present names of a class's options by their earlier ones."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= vars(base).get("earlier_names", {})
    return found


def by_present_names(kind: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Options under their present names. Raises `ValueError` where one is given by both."""
    names = earlier_names(kind)
    for earlier, present in names.items():
        if earlier in values and present in values:
            old, new = (f"--{name.replace('_', '-')}" for name in (earlier, present))
            raise ValueError(f"{new} and {old} are one option, and both are given; leave out {old}")
    return {names.get(name, name): value for name, value in values.items()}


def present_place(kind: type[BaseModel], place: Place) -> Place:
    """The place of a key in a file of options, by present names: `prune.calibration` is `prune.data`."""
    if not place:
        return place
    name = earlier_names(kind).get(str(place[0]), place[0])
    section = model_of(kind.model_fields[name].annotation) if name in kind.model_fields else None
    return (name, *(present_place(section, place[1:]) if section is not None else place[1:]))


def by_present_places(
    kind: type[BaseModel], values: Mapping[str, Any], lines: Mapping[Place, int]
) -> tuple[dict[str, Any], dict[Place, int]]:
    """The content of a file of options, and the line of each key, by present names.

    Raises:
        ValueError: an option is given by both names.
    """
    renamed = by_present_names(kind, values)
    for name, value in renamed.items():
        section = model_of(kind.model_fields[name].annotation) if name in kind.model_fields else None
        if section is not None and isinstance(value, dict):
            try:
                renamed[name] = by_present_places(section, value, {})[0]
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    return renamed, {present_place(kind, place): line for place, line in lines.items()}
