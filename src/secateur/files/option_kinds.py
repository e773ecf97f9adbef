"""What the annotations of options say: their kinds, and values that pydantic would take for one of them."""

import functools
import operator
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from secateur.files.yaml_text import Place

SEQUENCES = (list, tuple, set, frozenset)


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model in an annotation such as `PruneConfig | None`."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        found = [model_of(kind) for kind in typing.get_args(annotation)]
        return next((kind for kind in found if kind is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def booleans_for_numbers(value: Any, annotation: Any, place: Place = ()) -> Iterator[tuple[Place, bool]]:
    """Where `true` or `false` is given for a number. Pydantic takes them for 1 and 0.

    Args:
        value: as it was read.
        annotation: what it is to become: a pydantic model, or what stands behind one of its fields.
        place: of the value.

    Returns:
        Each with its place.
    """
    kinds = set(_alternatives(annotation))
    if isinstance(value, bool):
        if kinds & {int, float} and bool not in kinds:
            yield place, value
    elif isinstance(value, dict):
        section = model_of(annotation)
        of_values = [typing.get_args(kind)[1] for kind in kinds if typing.get_origin(kind) is dict]
        for key, inner in value.items():
            if section is not None and key in section.model_fields:
                yield from booleans_for_numbers(inner, section.model_fields[key].annotation, (*place, key))
            elif of_values:
                yield from booleans_for_numbers(inner, of_values[0], (*place, key))
    elif isinstance(value, list):
        of_items = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) in SEQUENCES]
        kinds_of_items = [kind for listed in of_items for kind in listed if kind is not Ellipsis]
        for index, inner in enumerate(value if kinds_of_items else ()):
            yield from booleans_for_numbers(inner, functools.reduce(operator.or_, kinds_of_items), (*place, index))


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The kinds of an annotation such as `int | None`, without what `Annotated` says of them."""
    if typing.get_origin(annotation) is typing.Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (types.UnionType, typing.Union):
        for kind in typing.get_args(annotation):
            yield from _alternatives(kind)
    else:
        yield annotation
