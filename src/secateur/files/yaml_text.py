"""YAML as people write it: where each key stands, and none twice; of bounded size, depth and repetition."""

from collections.abc import Iterator
from typing import Any

import yaml

from secateur.errors import InputError
from secateur.files.input_text import DEEPEST, require_plain, shortened

Place = tuple[str | int, ...]

LONGEST = 2**20  # characters: a second or two of reading
MOST_NODES = 20_000  # an alias counts as all that it stands for
LONGEST_NUMBER = 400  # characters: a double has no more before its point


class Loader(yaml.SafeLoader):
    """YAML of plain values.

    An alias (`*name`, also behind `<<`) stands for a whole value. A few that stand for each other multiply to more than
    any machine holds, so all that a text stands for is counted while it is read.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._begun = 0
        self._sizes: dict[int, int] = {}  # nodes that a node stands for, by its id

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        self._begun += 1
        mark = self.peek_event().start_mark
        if self._depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST} levels", mark)
        if self._begun > MOST_NODES:  # said here, not once all of a long mapping is read
            raise _too_many(mark)
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if alias and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias stands for the value that it is part of", mark)
        if not alias:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in _parts(node))
        if self._sizes[id(node)] > MOST_NODES:
            raise _too_many(mark)
        return node

    def construct_scalar(self, node: yaml.Node) -> Any:
        numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if node.tag in numbers and len(node.value) > LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark)
        return super().construct_scalar(node)  # type: ignore[arg-type]


def read_yaml(
    text: str, source: str, what: str, kind: type[Loader] = Loader
) -> tuple[dict[str, Any], dict[Place, int]]:
    """The content of a YAML text, and the line on which each key stands.

    Args:
        text: of the file.
        source: what messages call it.
        what: it should be.
        kind: of the loader, for tags that only this text has.

    Raises:
        InputError: it is no YAML, no mapping, gives a key twice, or is too long, too deep or too large when its aliases
            are written out.
    """
    values, lines = _read(text, source, kind)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"{source} is not {what}")
    return values, lines


def yaml_value(text: str, source: str) -> Any:
    """The value of a short YAML text. Raises `InputError` as `read_yaml`, but any value will do."""
    return _read(text, source, Loader)[0]


def _read(text: str, source: str, kind: type[Loader]) -> tuple[Any, dict[Place, int]]:
    if len(text) > LONGEST:
        raise InputError(f"{source} has {len(text):,} characters, more than the {LONGEST:,} of YAML that are read")
    try:
        loader = kind(text)
    except yaml.reader.ReaderError as error:
        raise InputError(f"{source}: not valid YAML, {error.reason} at character {error.position}") from error
    try:
        node = loader.get_single_node()
        lines = dict(_lines(node, source)) if node is not None else {}
        values = loader.construct_document(node) if node is not None else None
        require_plain(values)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{source}{line}: not valid YAML, {shortened(error.problem or error.context, 200)}") from error
    except (ValueError, ArithmeticError) as error:
        raise InputError(f"{source}: not valid YAML, {shortened(error, 200)}") from error
    except (LookupError, TypeError, AttributeError) as error:  # PyYAML's constructors do not look before they convert
        raise InputError(f"{source}: not valid YAML, a value is not what its tag says") from error
    finally:
        loader.dispose()
    return values, lines


def _too_many(mark: yaml.Mark) -> yaml.MarkedYAMLError:
    problem = f"it stands for more than {MOST_NODES:,} values, with its aliases written out"
    return yaml.composer.ComposerError(None, None, problem, mark)


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value


def _lines(node: yaml.Node, source: str, place: Place = ()) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, source, (*place, index))
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"{source}, line {key.start_mark.line + 1}: not valid YAML, a key is no name")
        here = (*place, str(key.value))
        if here[-1] in seen:
            raise InputError(f"{source}, line {key.start_mark.line + 1}: {shortened(dotted(here))} is given twice")
        seen.add(str(here[-1]))
        yield here, key.start_mark.line + 1
        yield from _lines(value, source, here)


def dotted(place: Place) -> str:
    """`prune.ratio`."""
    return ".".join(map(str, place))
