"""Text files from outside: an ordinary file, of a bounded size, in UTF-8. And values out of them, of bounded depth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secateur.errors import InputError, SecateurError
from secateur.files import expanded

LARGEST_TEXT = 64 * 2**20
DEEPEST = 64


def read_input_text(
    path: str | Path, kind: type[SecateurError] = InputError, largest: int = LARGEST_TEXT, advice: str = ""
) -> str:
    """The text of a file.

    Args:
        path: of the file.
        kind: of the error.
        largest: size in bytes that is read; more is refused before it is read.
        advice: what to do, such as "; tune it anew", at the end of each message.

    Raises:
        SecateurError: of the given kind: it cannot be read, is no ordinary file, is larger, or is not UTF-8.
    """
    file = expanded(path)
    try:
        if file.exists() and not file.is_file() and not file.is_dir():
            raise kind(f"{file} is no ordinary file{advice}")
        size = file.stat().st_size
        if size > largest and file.is_file():
            raise kind(f"{file} has {size:,} bytes, more than the {largest:,} that are read{advice}")
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise kind(f"{file} is not UTF-8 text{advice}") from error
    except (OSError, ValueError) as error:  # a name with a zero byte in it is a ValueError
        raise kind(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}{advice}") from error


def shortened(value: object, longest: int = 80) -> str:
    """A value as messages show it: on one line, cut where it is long."""
    text = " ".join(str(value)[: 4 * longest].split())
    return text if len(text) <= longest else f"{text[:longest]}…"


def require_plain(value: Any) -> None:
    """Raise `ValueError` where a value is nested deeper than `DEEPEST`, or holds text that UTF-8 cannot write."""
    for depth, inner in _nested(value):
        if depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        if isinstance(inner, str) and not inner.isascii():
            try:
                inner.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError("it holds half of a surrogate pair, which is no character") from error


def _nested(value: Any) -> Iterator[tuple[int, Any]]:
    """Everything in a value with its depth; what lies deeper than `DEEPEST` is not looked into."""
    waiting = [(0, value)]
    while waiting:
        depth, inner = waiting.pop()
        yield depth, inner
        if isinstance(inner, dict):
            waiting += [(depth + 1, part) for pair in inner.items() for part in pair]
        elif isinstance(inner, list | tuple | set):
            waiting += [(depth + 1, part) for part in inner]
