"""Reading a JSON file that came with a model."""

import json
import re
from pathlib import Path
from typing import Any

from secateur.errors import ModelError

CONFIG = "config.json"
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half of a character, which no file can be written with
LARGEST_BYTES = 256 * 2**20  # an index or a tokenizer takes a tenth of it


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        ModelError: it cannot be read, is too large, or is not a JSON object.
    """
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise ModelError(f"{file} has {file.stat().st_size} bytes, which is no {file.name}; restore it")
        text = file.read_text(encoding="utf-8")
        content = json.loads(text)
        if HALF.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError
        raise ModelError(f"{file} is not valid JSON ({error}); restore it from its source") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not a JSON object; restore it from its source")
    return content


def shown(value: object, limit: int = 40) -> str:
    """A value out of a file, for a message: on one line, of characters that every terminal has."""
    return " ".join(str(value).split()).encode("ascii", "backslashreplace").decode()[:limit]


def one_line(error: BaseException, limit: int = 300) -> str:
    """What an exception says, on one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]} …"
