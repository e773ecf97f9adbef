"""YAML as people write it: where each key stands, and none twice."""

from collections.abc import Iterator
from typing import Any

import yaml

from secateur.errors import InputError

Place = tuple[str | int, ...]


def read_yaml(
    text: str, source: str, what: str, kind: type[yaml.SafeLoader] = yaml.SafeLoader
) -> tuple[dict[str, Any], dict[Place, int]]:
    """The content of a YAML text, and the line on which each key stands.

    Args:
        text: of the file.
        source: what messages call it.
        what: it should be.
        kind: of the loader, for tags that only this text has.

    Raises:
        InputError: it is no YAML, no mapping, or gives a key twice.
    """
    try:
        loader = kind(text)
    except yaml.reader.ReaderError as error:
        raise InputError(f"{source}: not valid YAML, {error.reason} at character {error.position}") from error
    try:
        node = loader.get_single_node()
        lines = dict(_lines(node, source)) if node is not None else {}
        values = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{source}{line}: not valid YAML, {error.problem or error.context}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not valid YAML, {str(error).splitlines()[0]}") from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise InputError(f"{source} is not {what}")
    return values, lines


def _lines(node: yaml.Node, source: str, place: Place = ()) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, source, (*place, index))
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        here = (*place, str(key.value))
        if here[-1] in seen:
            raise InputError(f"{source}, line {key.start_mark.line + 1}: {dotted(here)} is given twice")
        seen.add(str(here[-1]))
        yield here, key.start_mark.line + 1
        yield from _lines(value, source, here)


def dotted(place: Place) -> str:
    """`prune.ratio`."""
    return ".".join(map(str, place))
