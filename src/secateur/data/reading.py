"""Text and instruction data out of files: `.txt`, `.jsonl`, `.json` and `.parquet`."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from secateur.data.corpus import Example
from secateur.errors import DataError

Rows = Iterable[tuple[str, Any]]  # where a row stands ("line 3"), and the row

_TEXT = "text"
_INSTRUCTION = ("instruction", "output")


def read_file(path: Path) -> tuple[list[str], list[Example]]:
    """Read a file of a supported kind.

    Args:
        path: a `.txt` file is one document. The rows of the others have a `text`, or Alpaca's `instruction`,
            `output` and perhaps `input`; where they have both, they are instruction data.

    Returns:
        Documents and examples, one of the two empty.

    Raises:
        DataError: the file is missing, of another kind, damaged, not UTF-8, or without such columns.
    """
    reader = _READERS.get(path.suffix.lower())
    if path.is_dir():
        raise DataError(f"{path} is a directory; give a {file_kinds()} file")
    if reader is None:
        raise DataError(f"{path} is of no kind that can be read; give a {file_kinds()} file")
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path, seen from {Path.cwd()}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error


def is_file_kind(path: Path) -> bool:
    """Whether the suffix is one that can be read."""
    return path.suffix.lower() in _READERS


def file_kinds() -> str:
    """The suffixes that can be read, for a message."""
    *most, last = _READERS
    return f"{', '.join(most)} or {last}"


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type's name where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def rows_to_content(rows: Rows, name: str) -> tuple[list[str], list[Example]]:
    """Turn rows into documents or examples; the first row decides which.

    Args:
        rows: each with the words that say where it stands, for messages.
        name: what they come from, for messages.

    Raises:
        DataError: a row is no object, misses a column, or holds something else than text there.
    """
    documents: list[str] = []
    examples: list[Example] = []
    instructions: bool | None = None
    for place, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{name}, {place}: a row must be an object with columns, as {{'text': '...'}}")
        if instructions is None:
            instructions = _are_instructions(list(row), name)
        if instructions:
            instruction, output = (_column(row, column, name, place) for column in _INSTRUCTION)
            given = "" if row.get("input") is None else _column(row, "input", name, place)
            examples.append(Example(instruction, given, output))
        else:
            documents.append(_column(row, _TEXT, name, place))
    return documents, examples


def _are_instructions(columns: Sequence[str], name: str) -> bool:
    if all(column in columns for column in _INSTRUCTION):
        return True
    if _TEXT in columns:
        return False
    found = ", ".join(repr(column) for column in columns[:8]) or "no columns"
    raise DataError(f"{name} has {found}; it needs a column 'text', or 'instruction' and 'output'")


def _column(row: dict[str, Any], column: str, name: str, place: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        problem = "is missing" if value is None else f"is a {type(value).__name__}"
        raise DataError(f"{name}, {place}: {column!r} {problem}; it must be text in every row")
    return value


def _read_text(path: Path) -> tuple[list[str], list[Example]]:
    return [_decode(path.read_bytes(), path).replace("\r\n", "\n")], []


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {error.start:,} is 0x{content[error.start]:02x}; convert it first"
        ) from error


def _read_json_lines(path: Path) -> tuple[list[str], list[Example]]:
    lines = _decode(path.read_bytes(), path).split("\n")

    def rows() -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"line {number:,}", _parse(line, path, number)

    return rows_to_content(rows(), str(path))


def _read_json(path: Path) -> tuple[list[str], list[Example]]:
    rows = _parse(_decode(path.read_bytes(), path), path)
    if not isinstance(rows, list):
        raise DataError(f"{path} holds no list of rows; a file with one object per line must be named .jsonl")
    return rows_to_content(((f"row {number:,}", row) for number, row in enumerate(rows, start=1)), str(path))


def _parse(text: str, path: Path, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno:,}, column {error.colno:,}"
        hint = "; a file with one object per line must be named .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{path}, {place}: no valid JSON ({error.msg}){hint if line is None else ''}") from error
    except RecursionError as error:
        raise DataError(f"{path}, line {line or 1:,}: the JSON is nested too deeply to be rows of text") from error


def _read_parquet(path: Path) -> tuple[list[str], list[Example]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            wanted = ["instruction", "input", "output"] if _are_instructions(columns, str(path)) else [_TEXT]
            table = file.read(columns=[column for column in wanted if column in columns])
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no readable parquet file: {first_line(error)}") from error
    rows = ((f"row {number:,}", row) for number, row in enumerate(table.to_pylist(), start=1))
    return rows_to_content(rows, str(path))


_READERS: dict[str, Callable[[Path], tuple[list[str], list[Example]]]] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
