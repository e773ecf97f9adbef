"""The names of what stands beside a result while it is written: a later start recognises what a killed one left."""

import os
import re
from pathlib import Path

NEW, OLD = "new", "old"

_LEFT = re.compile(r"\..+\.secateur-(new|old)", re.DOTALL)


def expanded(path: str | Path) -> Path:
    """A path with `~` as the home directory; one of a user that is not there is left as it is, the name of a file."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def followed(path: Path) -> Path:
    """Where a path leads to through links, whether anything is there or not; a loop of links leads to itself."""
    return Path(os.path.realpath(path))


def beside(target: Path, kind: str) -> Path:
    """`.out.secateur-new` for `out`."""
    return target.with_name(f".{target.name}.secateur-{kind}")


def partial_of(target: Path) -> Path:
    """Where the work stands that is to become `target`."""
    return target.with_name(f"{target.name}.partial")


def dropped(target: Path) -> Path:
    """What that work is called while it is deleted."""
    return beside(partial_of(target), OLD)


def is_beside(path: Path) -> bool:
    """Whether a path is named like that, of whatever target."""
    return _LEFT.fullmatch(path.name) is not None
