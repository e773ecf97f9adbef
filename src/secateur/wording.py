"""What messages call an option: `--zeros fill` in a shell, `zeros: fill` in a recipe, `zeros="fill"` in Python.

Messages are written as for the command line; `worded` puts them as whoever asked for the work would write them.
"""

import re
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from pydantic import BaseModel

Asker = Literal["command line", "recipe", "python"]
# Whose words: those for the options of the work, and those for what only a call has, such as --overwrite.
_asker: ContextVar[tuple[Asker, Asker]] = ContextVar("asker", default=("python", "python"))

RENAMED = {"from_directory": "from", "settings": "set"}
BOOLEAN = "true or false"
LONGEST_VALUE = 120  # characters of a value in a message
CALL_ONLY = {"overwrite": {BOOLEAN}, "output": set[str](), "adapter": set[str](), "set": set[str]()}
# Commands in a message stay what they are.
COMMANDS = r"(?:secateur [a-z]|pip install|llama-gguf-split|torchrun )[^;,()]*"
LITERAL = (
    r"'[^']*'|%[sdg]|[A-Z]{3,}(?:\.\w+)?\b|-?\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?%?(?![\w-])|[\w:.-]*/[^\s,;()]*|cuda:\d+"
)
VALUE = rf"{LITERAL}|\w[\w-]*"
OPTION = re.compile(rf"(?P<command>{COMMANDS})|(?<![\w-])--(?P<name>[a-z][a-z0-9-]*)(?:[ =](?P<value>{VALUE}))?")
WORDS = {"auto", "cpu", "cuda", "none", "null"}

_choices: dict[str, set[str]] = {name: set(choices) for name, choices in CALL_ONLY.items()}


def know_options(config: type[BaseModel]) -> None:
    """Take note of the options of a config, so that messages can name them."""
    for name, field in config.model_fields.items():
        _choices.setdefault(RENAMED.get(name, name), set()).update(_choices_of(field.annotation))
    for base in config.__mro__:
        for name in vars(base).get("earlier_names", ()):
            _choices.setdefault(name, set())


@contextmanager
def asked_by(asker: Asker) -> Iterator[None]:
    """Word messages for the command line or for Python while the block runs; within a recipe, its options for that."""
    token = _asker.set((asker, _asker.get()[1] if asker == "recipe" else asker))
    try:
        yield
    finally:
        _asker.reset(token)


def worded(message: str) -> str:
    """A message with its options as whoever asked would write them: `--max-rate 0.3` becomes `max_rate=0.3`."""
    return OPTION.sub(_spelt, message) if _asker.get() != ("command line", "command line") else message


def argument(name: str, value: object) -> str:
    """An option with its value, as whoever asked would write it."""
    asker = _asker.get()[0]
    if asker == "python":
        return f"{name}={_one_line(repr(value))}"
    return f"{name}: {value}" if asker == "recipe" else f"{name} {value}"


def _one_line(text: str) -> str:
    """What a tensor or a table writes over many lines, on one of a bearable length."""
    text = " ".join(text[: 4 * LONGEST_VALUE].split())
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _spelt(match: re.Match[str]) -> str:
    written = match.group()
    if match["command"]:
        return written
    name = match["name"].replace("-", "_")
    negated = name.startswith("no_") and BOOLEAN in _choices.get(name[3:], ())
    name = name[3:] if negated else name
    asker = _asker.get()[name in CALL_ONLY]
    if name not in _choices or asker == "command line":
        return written
    value, rest = match["value"], ""
    if value is not None and not _is_value(value, _choices[name]):
        value, rest = None, written[match.end("name") - match.start() :]
    if value is None and BOOLEAN in _choices[name]:
        value = str(not negated)
    field = next((field for field, flag in RENAMED.items() if flag == name), name)
    return _assigned(field, value, asker) + rest


def _assigned(name: str, value: str | None, asker: Asker) -> str:
    if asker == "recipe":
        return name if value is None else f"{name}: {value.lower() if value in ('True', 'False') else value}"
    if value is None:
        return f"{name}="
    bare = re.fullmatch(r"'.*'|%[dg]|[A-Z]{3,}(?:\.\w+)?|True|False|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", value)
    return f"{name}={value}" if bare else f'{name}="{value}"'


def _is_value(word: str, choices: set[str]) -> bool:
    """Whether the word behind an option is its value and not how the sentence goes on."""
    return word in choices or word in WORDS or re.fullmatch(LITERAL, word) is not None


def _choices_of(annotation: Any) -> Iterator[str]:
    if annotation is bool:
        yield BOOLEAN
    elif typing.get_origin(annotation) is Literal:
        yield from map(str, typing.get_args(annotation))
    else:
        for part in typing.get_args(annotation):
            yield from _choices_of(part)


def option_lines(fields: Mapping[str, Any]) -> list[str]:
    """One line for each field of a pydantic model: its description, worded for Python, and its default."""
    with asked_by("python"):
        return [f"{name}: {described(field)}" for name, field in fields.items()]


def described(field: Any) -> str:
    """What a field of a pydantic model is, worded for Python, with its default."""
    text = worded((field.description or "").strip())
    if field.is_required():
        return f"{text} Required."
    default = field.get_default(call_default_factory=True)
    return text if default is None else f"{text} Default: {default!r}."
