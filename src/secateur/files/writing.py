"""Single files, written beside their place and renamed into it."""

import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.files.checks import require_new_file
from secateur.files.claims import claimed
from secateur.files.failures import reported
from secateur.files.names import expanded, followed
from secateur.files.replacing import replace_bytes


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` beside `path`, or what a link leads to, and rename it into place.

    Raises:
        OutputError: the file cannot be written.
    """
    target = expanded(path)
    if target.is_symlink():
        target = followed(target)
    with reported(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(target, content)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, beside and renamed into place. Raises `OutputError`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, beside and renamed into place. Raises `OutputError`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class OfDirectory:
    """The content of a file that tells what else is in its directory, which is filled but for it."""

    make: Callable[[Path], object]


def write_extra(path: Path, content: object) -> None:
    """Write text and bytes as they are, what a function returns, everything else as JSON. Raises `OutputError`."""
    if isinstance(content, OfDirectory):
        write_extra(path, content.make(path.parent))
    elif callable(content):
        write_extra(path, content())
    elif isinstance(content, bytes):
        write_bytes(path, content)
    elif isinstance(content, str):
        write_text(path, content)
    else:
        write_json(path, content)


def write_figures(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a command's figures as JSON that says who wrote it, so that the next figures may replace it."""
    write_json(path, {"written by": f"secateur {importlib.metadata.version('secateur')}", **values})


@contextmanager
def new_file(file: str | Path, suffix: str, overwrite: bool = False) -> Iterator[Path]:
    """Fill a file beside `file` and rename it into place when the block ends without an error.

    Yields:
        The path to write to, of an empty file. It is removed if the block raises.

    Raises:
        OutputError: as `require_new_file` and `claimed`, or the disk is full.
    """
    target = require_new_file(file, suffix, overwrite)
    with claimed(target, file=True) as temporary, reported(target):
        yield temporary
        temporary.replace(target)
