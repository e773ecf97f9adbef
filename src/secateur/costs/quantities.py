"""Sizes and times as people write them: 6GB, 900MB, 25ms, 40 tokens a second."""

import re
from collections.abc import Mapping

NUMBER = r"(\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})"
BYTES = {
    **{"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12},
    **{"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40},
}
MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
SHOWN = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
RATES = {"": 1.0, "/s": 1.0, "tokens/s": 1.0, "tok/s": 1.0}


def size_of(text: str) -> float:
    """Bytes of a text such as `6GB` or `512 MiB`. Raises `ValueError`."""
    return _quantity(text, BYTES, "size; write 6GB or 900MB for example")


def milliseconds_of(text: str) -> float:
    """Milliseconds of a text such as `25ms` or `0.1s`. Raises `ValueError`."""
    return _quantity(text, MILLISECONDS, "time; write 25ms for example")


def rate_of(text: str) -> float:
    """Tokens a second of a text such as `40` or `40 tokens/s`. Raises `ValueError`."""
    return _quantity(text, RATES, "number of tokens a second; write 40 for example")


def _quantity(text: str, units: Mapping[str, float], what: str) -> float:
    match = re.fullmatch(rf"\s*{NUMBER}\s*([^\d\s.]*)\s*", text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None or float(match[1]) <= 0:
        raise ValueError(f"is no {what}")
    return float(match[1]) * factor


def shown_size(size: float) -> str:
    """`219.6 MB`: three or four figures in the unit that suits them."""
    unit, factor = next(pair for pair in SHOWN if size >= pair[1] or pair is SHOWN[-1])
    return f"{size / factor:,.{1 if size / factor >= 100 else 2}f} {unit}"


def shown_time(milliseconds: float) -> str:
    """`25.1 ms a token (39.8 tokens/s)`."""
    figures = 1 if milliseconds >= 10 else 2 if milliseconds >= 1 else 4
    return f"{milliseconds:,.{figures}f} ms a token ({1000 / max(milliseconds, 1e-9):,.1f} tokens/s)"
