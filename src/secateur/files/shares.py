"""Options that are a share of something: `0.2` and `20%` are the same."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator

NUMBER = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})", re.ASCII)
MOST_OF_A_SHARE = {"less_than": "lt", "less_than_equal": "le"}


def _without_percent(value: Any) -> Any:
    """A number for text such as `20%`; anything else as it is, for pydantic to judge."""
    if not isinstance(value, str) or not value.strip().endswith("%"):
        return value
    number = value.strip().removesuffix("%").rstrip()
    return float(Decimal(number) / 100) if NUMBER.fullmatch(number) else value


Ratio = Annotated[float, BeforeValidator(_without_percent)]


def hint(problem: Mapping[str, Any]) -> str:
    """What to say behind pydantic's complaint about a share that was given in percent; nothing behind any other."""
    bound = problem.get("ctx", {}).get(MOST_OF_A_SHARE.get(problem["type"], ""))
    given = str(problem["input"]).strip()
    if bound is None or bound > 1 or not NUMBER.fullmatch(given) or not 2 <= float(given) <= 100:
        return ""
    return f"; {float(given):g} percent are {float(Decimal(given) / 100):g} or {float(given):g}%"
