"""JSON as the standard has it: no NaN, no key twice, no number that a double or 64 bits cannot hold."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from secateur.errors import InputError, SecateurError
from secateur.files.input_text import read_input_text, require_plain

LARGEST_INTEGER = 2**63 - 1


def read_json(
    path: str | Path, fault: str = "is not JSON", kind: type[SecateurError] = InputError, advice: str = ""
) -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        fault: what messages say of it, such as "is not a pruning_plan.json".
        kind: of the error.
        advice: what to do, such as "; run it anew", at the end of each message.

    Raises:
        SecateurError: of the given kind: it cannot be read, or `parse_json` refuses it.
    """
    text = read_input_text(path, kind, advice=advice)
    try:
        return parse_json(text)
    except ValueError as error:
        raise kind(f"{path} {fault}: {error}{advice}") from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, gives a key twice, is nested deeper than `input_text.DEEPEST`, or holds NaN, an
            infinity, an integer of more than 64 bits or half of a surrogate pair. The message has one line.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_once, parse_constant=_refuse, parse_int=_integer, parse_float=_number
        )
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    require_plain(value)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:40]!r} is given twice")
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is no number")


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > LARGEST_INTEGER:
        raise ValueError(f"it holds the number {digits[:20]}…, which is too large")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {digits[:20]}, which is too large")
    return value
