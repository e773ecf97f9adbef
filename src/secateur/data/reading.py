"""Text and rows out of files: `.txt`, `.jsonl`, `.json` and `.parquet`, a row or a block at a time."""

import codecs
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from secateur.data.columns import Columns, columns_of, columns_of_row
from secateur.data.options import DataOptions
from secateur.errors import DataError

_KINDS = (".txt", ".jsonl", ".json", ".parquet")
_BLOCK = 1 << 20  # bytes read at once
_JSON_AT_ONCE = 16 << 20  # bytes of a `.json` file that is parsed as a whole
_LONGEST_JSON_ROW = 256 << 20  # characters of a row of a larger one
_LONG_NUMBER = "a number of too many digits"  # for Python's int(), whose error names its own settings


class RawRow(NamedTuple):
    """A row of a file before it is looked at.

    Attributes:
        number: from 1; in a `.jsonl` file the line's.
        size: bytes or characters that it has in the file, about.
        read: parses it. Raises `DataError`.
    """

    number: int
    size: int
    read: Callable[[], Any]


def is_file_kind(path: Path) -> bool:
    """Whether the suffix is one that can be read."""
    return path.suffix.lower() in _KINDS


def file_kinds() -> str:
    """The suffixes that can be read, for a message."""
    *most, last = _KINDS
    return f"{', '.join(most)} or {last}"


def require_readable(path: Path) -> None:
    """Raise `DataError` where a file is missing, a directory, of another kind, or may not be read."""
    if path.is_dir():
        raise DataError(f"{path} is a directory; give a {file_kinds()} file")
    if not is_file_kind(path):
        raise DataError(f"{path} is of no kind that can be read; give a {file_kinds()} file")
    with _reading(path), path.open("rb"):
        pass


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type's name where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def decoded(path: Path) -> Iterator[str]:
    """The text of a `.txt` file in blocks, its ends of line as `\\n`.

    Raises:
        DataError: the file cannot be read or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    read, held = 0, ""
    with _reading(path), path.open("rb") as file:
        read = len(_byte_order_mark(file.peek(3)))
        file.seek(read)
        while block := file.read(_BLOCK):
            text = held + _decoded(block, path, read, decoder)
            held = "\r" if text.endswith("\r") else ""  # its "\n" may be the next block's first
            yield text.removesuffix("\r").replace("\r\n", "\n")
            read += len(block)
        yield held + _decoded(b"", path, read, decoder)


def raw_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[RawRow]:
    """The rows of a `.jsonl`, `.json` or `.parquet` file.

    Args:
        path: of the file.
        columns: the ones that are wanted, where the kind of file has them apart; all unless given.

    Raises:
        DataError: the file, or a row that is reached, is damaged.
    """
    with _reading(path):
        if path.suffix.lower() == ".parquet":
            yield from _parquet_rows(path, columns)
        else:
            yield from _ROWS[path.suffix.lower()](path)


def row_count(path: Path) -> int:
    """How many rows a file has. The lines of `.jsonl` are not parsed for that. Raises `DataError`."""
    if path.suffix.lower() == ".parquet":
        with _parquet(path) as file:
            return file.metadata.num_rows
    return sum(1 for _ in raw_rows(path))


def row_place(path: Path, number: int) -> str:
    """What a row is called in a message: `line 3`."""
    return f"{'line' if path.suffix.lower() == '.jsonl' else 'row'} {number:,}"


def file_columns(path: Path, options: DataOptions) -> Columns | None:
    """Which columns of a file are read, as the first row says; None where there is none.

    Raises:
        DataError: it is no row, or has none that can be read.
    """
    if path.suffix.lower() == ".parquet":
        return columns_of(_parquet_columns(path), str(path), options)
    first = next(raw_rows(path), None)
    if first is None:
        return None
    return columns_of_row(first.read(), str(path), row_place(path, first.number), options)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise `DataError` where the block cannot read the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path, seen from {Path.cwd()}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error


def _byte_order_mark(content: bytes) -> bytes:
    return codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""


def _decoded(content: bytes, path: Path, offset: int, decoder: codecs.IncrementalDecoder | None = None) -> str:
    """Bytes of a file, from `offset` on, as text; at its end a decoder is given none."""
    held = b"" if decoder is None else decoder.getstate()[0]
    try:
        return content.decode() if decoder is None else decoder.decode(content, final=not content)
    except UnicodeDecodeError as error:
        byte, place = (held + content)[error.start], offset - len(held) + error.start
        raise DataError(f"{path} is not UTF-8: byte {place:,} is 0x{byte:02x}; convert it first") from error


def _json_lines(path: Path) -> Iterator[RawRow]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            mark = _byte_order_mark(line) if number == 1 else b""
            content = line.removeprefix(mark)
            if content.startswith(b"{") or content.decode(errors="replace").strip():
                yield RawRow(number, len(line), partial(_json_line, content, path, number, offset + len(mark)))
            offset += len(line)


def _json_line(line: bytes, path: Path, number: int, offset: int) -> Any:
    return _parse(_decoded(line, path, offset).removesuffix("\n"), path, number)


def _json_list(path: Path) -> Iterator[RawRow]:
    rows = _whole_json(path) if path.stat().st_size <= _JSON_AT_ONCE else _json_rows(path)
    for number, (size, row) in enumerate(rows, start=1):
        yield RawRow(number, size, partial(_same, row))


def _same(row: Any) -> Any:
    return row


def _whole_json(path: Path) -> Iterator[tuple[int, Any]]:
    content = path.read_bytes()
    mark = _byte_order_mark(content)
    rows = _parse(_decoded(content.removeprefix(mark), path, len(mark)), path)
    if not isinstance(rows, list):
        raise DataError(f"{path} holds no list of rows; a file with one object per line must be named .jsonl")
    return ((len(content) // max(1, len(rows)), row) for row in rows)


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a list that is too long to be parsed as a whole, each with its characters."""
    text = _JsonText(path)
    if text.next_character() != "[":
        raise DataError(f"{path} holds no list of rows; a file with one object per line must be named .jsonl")
    text.place += 1
    first = True
    while text.next_character() != "]":
        if not first:
            text.expect(",")
        yield text.value()
        first = False
    text.place += 1
    if text.next_character():
        raise text.refusal("Extra data", text.place)


class _JsonText:
    """The text of a long JSON file, of which only what is being parsed is held.

    Attributes:
        place: of the next character.
    """

    def __init__(self, path: Path) -> None:
        self.place = 0
        self._path = path
        self._blocks = decoded(path)
        self._text, self._lines = "", 0
        self._decoder = json.JSONDecoder()

    def next_character(self) -> str:
        """The next one that is not blank, empty at the end."""
        while True:
            while self.place < len(self._text):
                if self._text[self.place] not in " \t\n\r":
                    return self._text[self.place]
                self.place += 1
            if not self._more():
                return ""

    def expect(self, character: str) -> None:
        """Go on behind a character that must come. Raises `DataError`."""
        if self.next_character() != character:
            raise self.refusal(f"Expecting {character!r} delimiter", self.place)
        self.place += 1

    def value(self) -> tuple[int, Any]:
        """The next value, and its characters. Raises `DataError`."""
        self.next_character()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self.place)
            except json.JSONDecodeError as error:
                if not (self._is_unfinished(error) and self._more()):
                    raise self.refusal(error.msg, error.pos) from error
            except RecursionError as error:
                raise self.refusal("nested too deeply to be rows of text", self.place) from error
            except ValueError as error:
                raise self.refusal(_LONG_NUMBER, self.place) from error
            else:
                size, self.place = end - self.place, end
                return size, value

    def refusal(self, problem: str, place: int) -> DataError:
        """The error of a problem at a place of what is held."""
        before = self._text[:place]
        line, column = self._lines + before.count("\n") + 1, place - before.rfind("\n")
        return DataError(f"{self._path}, line {line:,}, column {column:,}: no valid JSON ({problem})")

    def _is_unfinished(self, error: json.JSONDecodeError) -> bool:
        if len(self._text) - self.place > _LONGEST_JSON_ROW:
            return False
        return error.pos > len(self._text) - 16 or error.msg.startswith("Unterminated string")

    def _more(self) -> bool:
        """Drop what is parsed, and read as much again as is left, a block at least."""
        self._lines += self._text.count("\n", 0, self.place)
        self._text, self.place = self._text[self.place :], 0
        added: list[str] = []
        while sum(map(len, added)) <= len(self._text) and (block := next(self._blocks, None)) is not None:
            added.append(block)
        self._text = "".join([self._text, *added])
        return any(added)


def _parse(text: str, path: Path, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno:,}, column {error.colno:,}"
        hint = "; a file with one object per line must be named .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{path}, {place}: no valid JSON ({error.msg}){hint if line is None else ''}") from error
    except RecursionError as error:
        raise DataError(f"{path}, line {line or 1:,}: the JSON is nested too deeply to be rows of text") from error
    except ValueError as error:
        if line is None:
            deque(_json_rows(path), maxlen=0)  # which refuses it with the line of its row
        raise DataError(f"{path}, line {line or 1:,}: no valid JSON ({_LONG_NUMBER})") from error


def _parquet_columns(path: Path) -> list[str]:
    with _parquet(path) as file:
        return file.schema_arrow.names


def _parquet_rows(path: Path, wanted: Sequence[str] | None) -> Iterator[RawRow]:
    with _parquet(path) as file:
        columns = file.schema_arrow.names
        stored = sum(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
        size = max(1, stored // max(1, file.metadata.num_rows))
        batches = file.iter_batches(
            batch_size=max(1, min(4096, _BLOCK // size)),
            columns=[column for column in columns if wanted is None or column in wanted],
        )
        number = 0
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield RawRow(number, characters_of(row), partial(_same, row))


def characters_of(value: Any) -> int:
    """How many characters of text a value of a row holds."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(characters_of, value.values()))
    return sum(map(characters_of, value)) if isinstance(value, list | tuple) else 0


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """A parquet file, of whose columns parts are read. Raises `DataError` where it is damaged."""
    import pyarrow
    from pyarrow import parquet

    try:
        with _reading(path), parquet.ParquetFile(path, buffer_size=_BLOCK) as file:
            yield file
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no readable parquet file: {first_line(error)}") from error


_ROWS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
}
