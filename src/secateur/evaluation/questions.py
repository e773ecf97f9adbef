"""The questions of a task in a JSON file: objects, one a line, or a list of them."""

from pathlib import Path
from typing import Any

from secateur.errors import DataError
from secateur.files.input_text import LARGEST_TEXT, read_input_text, shortened
from secateur.files.json_text import parse_json


def require_questions(file: Path) -> None:
    """Check a file before a reader of data sets has it, which takes other values for rows, or fails on them.

    Raises:
        DataError: it is neither lines of JSON objects nor one JSON value that is or holds a list of objects.
    """
    if _is_whole(file):
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise DataError(f"{file}, line {number}: no JSON object, {shortened(error, 200)}") from error
            if not isinstance(row, dict):
                raise DataError(f"{file}, line {number}: no JSON object, but {shortened(row)}")


def _is_whole(file: Path) -> bool:
    """Whether a file is one JSON value of rows. Raises `DataError` where it is one value of something else."""
    if file.stat().st_size > LARGEST_TEXT:
        return False  # one value would have to be in memory at once: such a file has lines
    text = read_input_text(file, DataError)
    if text.lstrip()[:1] == "{" and len(text.strip().splitlines()) > 1 and text.strip().splitlines()[0].endswith("}"):
        return False
    try:
        content = parse_json(text)
    except ValueError:
        return False
    if not _are_rows(content):
        raise DataError(f"{file} holds no rows: give JSON objects, one a line, or a list of them")
    return True


def _are_rows(content: Any) -> bool:
    if isinstance(content, list):
        return bool(content) and all(isinstance(row, dict) for row in content)
    return isinstance(content, dict)
