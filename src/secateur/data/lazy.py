"""What a large file holds, read anew each time it is gone through: its text is never in memory as a whole."""

import hashlib
from abc import abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from secateur.data.columns import Columns
from secateur.data.corpus import Answered
from secateur.data.options import AS_IT_IS, DataOptions
from secateur.data.reading import (
    RawRow,
    decoded,
    file_columns,
    raw_rows,
    require_readable,
    row_count,
    row_place,
)
from secateur.data.slices import Part

Item = TypeVar("Item", bound=str | Answered)

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
class Rows(Collection[Item], Generic[Item]):
    """Documents, or examples and conversations, in rows, or a run of them.

    Attributes:
        columns: which are read.
        start: rows before the run.
        stop: rows before its end; None: to the end of all.
    """

    columns: Columns
    start: int = 0
    stop: int | None = None

    def __iter__(self) -> Iterator[Item]:
        return map(self.content, self.raw())

    def __len__(self) -> int:
        rows = self.count()
        return max(0, min(rows, rows if self.stop is None else self.stop) - self.start)

    def __bool__(self) -> bool:
        return next(self.raw(), None) is not None  # not by their number: a stream does not tell, a file is long

    def __contains__(self, item: object) -> bool:
        return any(item == own for own in self)

    @abstractmethod
    def raw(self) -> Iterator[RawRow]:
        """The rows, not parsed. Raises `DataError` where they cannot be read."""

    @abstractmethod
    def content(self, row: RawRow) -> Item:
        """What is in a row. Raises `DataError`."""

    @abstractmethod
    def count(self) -> int:
        """How many rows there are, those outside the run included."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 that follows the content."""

    def part(self, part: Part) -> Self:
        """A part of the rows."""
        stop = self.start + len(self)
        places = part.of(range(self.start, stop))
        return replace(self, start=places.start, stop=places.stop)


@dataclass(frozen=True)
class RowFile(Rows[Item]):
    """Those of a `.jsonl`, `.json` or `.parquet` file, whose `path` this holds."""

    path: Path = Path()

    def raw(self) -> Iterator[RawRow]:
        """As `Rows.raw`."""
        return islice(raw_rows(self.path, self.columns.wanted), self.start, self.stop)

    def content(self, row: RawRow) -> Item:
        """As `Rows.content`."""
        return self.columns.read(row.read(), str(self.path), row_place(self.path, row.number))  # type: ignore[return-value]

    def count(self) -> int:
        """As `Rows.count`."""
        return _row_count(self.path, _state(self.path))

    @property
    def fingerprint(self) -> str:
        """SHA-256 that follows the content."""
        return _fingerprint(self.path, self.start, self.stop, self.columns)


def open_file(path: Path, options: DataOptions = AS_IT_IS) -> tuple[Collection[str], Collection[Answered]]:
    """The content of a file of a supported kind: lists of what is small, and else what reads the file anew.

    Args:
        path: a `.txt` file is one document. The rows of the others are as the columns of the first say.
        options: which columns.

    Returns:
        Documents and examples, one of the two empty.

    Raises:
        DataError: the file is missing, of another kind, damaged as far as it is read, not UTF-8, or without such
            columns.
    """
    require_readable(path)
    if path.suffix.lower() == ".txt":
        return in_memory(TextFile(path, 0, _characters(path, _state(path)))), []
    columns = file_columns(path, options)
    if columns is None:
        return [], []
    if columns.answered:
        return [], in_memory(RowFile[Answered](columns, path=path))
    return in_memory(RowFile[str](columns, path=path)), []


def in_memory(items: Collection[Item]) -> Collection[Item]:
    """The items as a list where they are small, else as they are."""
    if isinstance(items, list) or (isinstance(items, TextFile) and items.stop - items.start > LARGE):
        return items
    held, size = [], 0
    for item in items:
        held.append(item)
        size += _ROW + (len(item) if isinstance(item, str) else sum(map(len, item.strings)))
        if size > LARGE + _ROW:
            return items
    return held


def file_identity(path: Path) -> str:
    """`sha256:` and the digest of a file's content, so that a copy is recognised."""
    return _identity(path, _state(path))


def _fingerprint(path: Path, start: int, stop: int | None, columns: Columns | None = None) -> str:
    read = "" if columns is None else f" {columns.kind} {columns.names}"
    return hashlib.sha256(f"{file_identity(path)} {start} {stop}{read}".encode()).hexdigest()


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
