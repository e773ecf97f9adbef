"""What a large file holds, read anew each time it is gone through: its text is never in memory as a whole."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import astuple, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from secateur.data.corpus import Example
from secateur.data.reading import (
    RawRow,
    are_instructions,
    decoded,
    document_of,
    example_of,
    raw_rows,
    require_readable,
    row_count,
    row_place,
)
from secateur.data.slices import Part

Item = TypeVar("Item", str, Example)

LARGE = 8 << 20  # characters of a text that is no longer held in memory
_ROW = 64  # what a row counts beside its characters, since a million empty ones are not small


@dataclass(frozen=True)
class TextFile(Collection[str]):
    """One document, a `.txt` file or a part of it.

    Attributes:
        path: of the file.
        start: characters before the part.
        stop: characters before its end.
    """

    path: Path
    start: int
    stop: int

    def __iter__(self) -> Iterator[str]:
        yield "".join(self.blocks())

    def __len__(self) -> int:
        return 1

    def __contains__(self, item: object) -> bool:
        return any(item == own for own in self)

    def blocks(self) -> Iterator[str]:
        """The document in some strings. Raises `DataError`."""
        before = 0
        for text in decoded(self.path):
            if before >= self.stop:
                return
            yield text[max(0, self.start - before) : self.stop - before]
            before += len(text)

    def part(self, part: Part) -> "TextFile":
        """A part of it, by characters."""
        places = part.of(range(self.start, self.stop))
        return TextFile(self.path, places.start, places.stop)

    @property
    def fingerprint(self) -> str:
        """SHA-256 that follows the content."""
        return _fingerprint(self.path, self.start, self.stop)


@dataclass(frozen=True)
class RowFile(Collection[Item], Generic[Item]):
    """The documents or examples of a `.jsonl`, `.json` or `.parquet` file, or a run of them.

    Attributes:
        path: of the file.
        instructions: whether they are examples.
        start: rows before the run.
        stop: rows before its end; None: to the file's end.
    """

    path: Path
    instructions: bool
    start: int = 0
    stop: int | None = None

    def __iter__(self) -> Iterator[Item]:
        return map(self.content, self.raw())

    def __len__(self) -> int:
        rows = _row_count(self.path, _state(self.path))
        return max(0, min(rows, rows if self.stop is None else self.stop) - self.start)

    def __contains__(self, item: object) -> bool:
        return any(item == own for own in self)

    def raw(self) -> Iterator[RawRow]:
        """The rows, not parsed. Raises `DataError` where the file cannot be read."""
        return islice(raw_rows(self.path), self.start, self.stop)

    def content(self, row: RawRow) -> Item:
        """What is in a row. Raises `DataError`."""
        read = example_of if self.instructions else document_of
        return read(row.read(), str(self.path), row_place(self.path, row.number))  # type: ignore[return-value]

    def part(self, part: Part) -> "RowFile[Item]":
        """A part of the rows."""
        stop = self.start + len(self)
        places = part.of(range(self.start, stop))
        return RowFile(self.path, self.instructions, places.start, places.stop)

    @property
    def fingerprint(self) -> str:
        """SHA-256 that follows the content."""
        return _fingerprint(self.path, self.start, self.stop)


def open_file(path: Path) -> tuple[Collection[str], Collection[Example]]:
    """The content of a file of a supported kind: lists of what is small, and else what reads the file anew.

    Args:
        path: a `.txt` file is one document. The rows of the others have a `text`, or Alpaca's `instruction`,
            `output` and perhaps `input`; where they have both, they are instruction data.

    Returns:
        Documents and examples, one of the two empty.

    Raises:
        DataError: the file is missing, of another kind, damaged as far as it is read, not UTF-8, or without such
            columns.
    """
    require_readable(path)
    if path.suffix.lower() == ".txt":
        return in_memory(TextFile(path, 0, _characters(path, _state(path)))), []
    instructions = are_instructions(path)
    if instructions is None:
        return [], []
    if instructions:
        return [], in_memory(RowFile[Example](path, True))
    return in_memory(RowFile[str](path, False)), []


def in_memory(items: Collection[Item]) -> Collection[Item]:
    """The items as a list where they are small, else as they are."""
    if isinstance(items, list) or (isinstance(items, TextFile) and items.stop - items.start > LARGE):
        return items
    held, size = [], 0
    for item in items:
        held.append(item)
        size += _ROW + (len(item) if isinstance(item, str) else sum(map(len, astuple(item))))
        if size > LARGE + _ROW:
            return items
    return held


def file_identity(path: Path) -> str:
    """`sha256:` and the digest of a file's content, so that a copy is recognised."""
    return _identity(path, _state(path))


def _fingerprint(path: Path, start: int, stop: int | None) -> str:
    return hashlib.sha256(f"{file_identity(path)} {start} {stop}".encode()).hexdigest()


def _state(path: Path) -> tuple[int, ...]:
    """What changes where a file does: what was found out of it holds as long."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=64)
def _identity(path: Path, state: Any) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


@lru_cache(maxsize=64)
def _characters(path: Path, state: Any) -> int:
    return sum(map(len, decoded(path)))


@lru_cache(maxsize=64)
def _row_count(path: Path, state: Any) -> int:
    return row_count(path)
