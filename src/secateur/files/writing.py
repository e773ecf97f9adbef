"""Single files, written beside their place and renamed into it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from secateur.files.checks import require_new_file
from secateur.files.claims import claimed
from secateur.files.failures import reported
from secateur.files.names import NEW, beside


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` beside `path` and rename it into place.

    Raises:
        OutputError: the file cannot be written.
    """
    target = Path(path).expanduser()
    temporary = beside(target, NEW)
    with reported(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(_held(temporary), "wb") as file:
            try:
                file.write(content)
                file.flush()
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


def _held(path: Path) -> int:
    """Open a file to write, empty, that no other process writes meanwhile. What a killed one left is used again."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock_descriptor(descriptor)
            # Whoever held it before may have renamed or removed it.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                os.ftruncate(descriptor, 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, beside and renamed into place. Raises `OutputError`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, beside and renamed into place. Raises `OutputError`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_extra(path: Path, content: object) -> None:
    """Write text and bytes as they are, what a function returns, everything else as JSON. Raises `OutputError`."""
    if callable(content):
        write_extra(path, content())
    elif isinstance(content, bytes):
        write_bytes(path, content)
    elif isinstance(content, str):
        write_text(path, content)
    else:
        write_json(path, content)


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
