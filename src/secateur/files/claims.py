"""One process writes a result at a time, and begins by putting right what a killed one left there."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from secateur.errors import OutputError
from secateur.files.failures import reported
from secateur.files.marks import discard
from secateur.files.names import NEW, OLD, beside, dropped, followed
from secateur.files.replacing import is_opened

logger = logging.getLogger(__name__)

_held: dict[Path, int] = {}  # descriptors, by what they are of


@contextmanager
def claimed(output: Path, *, file: bool = False) -> Iterator[Path]:
    """Hold the place of a result while the block runs; within one process also several times over.

    What is new is filled beside the result, in `.out.secateur-new`. That is locked, so that no other process fills it;
    a dead process holds no lock, and what it left there is removed. A result that one had moved away comes back.

    Args:
        output: the file or directory that will be there. Its parents are made; if nothing came of it, they go again.
        file: whether it is a file.

    Yields:
        What to fill and to rename into place: an empty file or directory. If it is still there at the end, it goes.

    Raises:
        OutputError: another process holds it, or nothing can be written beside it.
    """
    target = followed(output.parent) / output.name
    place = beside(target, NEW)
    if _is_held(place):
        yield place
        return
    outer = _held.get(place)  # of a result that is in its place by now
    made: list[Path] = []
    try:
        with reported(target):
            made = _make_parents(target) if outer is None else []
            descriptor = _hold(place, target, file)
        _held[place] = descriptor
        try:
            with reported(target):
                _put_right(target, place)
            yield place
        finally:
            # After a result has taken the place of another, the old one may be here, or what another process makes.
            with suppress(OSError):  # the next start sweeps it
                if _is_held(place):
                    discard(place)
            os.close(_held.pop(place))
            if outer is not None:
                _held[place] = outer
    finally:
        for directory in made:
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()


def _is_held(place: Path) -> bool:
    """Whether this process holds what lies there now."""
    return place in _held and is_opened(place, _held[place])


def _make_parents(target: Path) -> list[Path]:
    """Make the directories above a result. Returns those that were not there, the lowest first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _hold(place: Path, target: Path, file: bool) -> int:
    while True:
        left = os.path.lexists(place)
        if place.is_symlink() or (left and place.is_dir() == file):
            raise OutputError(f"{place} stands where {target.name} is filled, and is not secateur's; remove it")
        if not file:
            place.mkdir(exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT if file else os.O_RDONLY
        descriptor = os.open(place, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)
        if not lock_descriptor(descriptor, blocking=False):
            os.close(descriptor)
            raise OutputError(f"{target} is being written by another secateur; wait for it, or name another")
        # Whoever held it before may have renamed or removed it meanwhile.
        if is_opened(place, descriptor):
            if left:
                logger.info("Removed %s, which a command that was stopped had left", place)
            return descriptor
        os.close(descriptor)


def _put_right(target: Path, place: Path) -> None:
    old = beside(target, OLD)
    for left in (old, dropped(target)):
        if left.is_symlink():
            raise OutputError(f"{left} is a link, and not secateur's; remove it")
    if old.exists() and not target.exists():
        old.rename(target)
        logger.info("A command that was stopped had moved %s away: it is back", target)
    for left in (old, dropped(target)):
        if left.exists():
            discard(left)
    if place.is_dir():
        for entry in place.iterdir():
            discard(entry)
    elif place.stat().st_size:
        os.truncate(place, 0)
