"""One process writes a result at a time, and begins by putting right what a killed one left there."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from secateur.errors import OutputError
from secateur.files.marks import discard
from secateur.files.names import LOCK, NEW, OLD, beside

logger = logging.getLogger(__name__)


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Hold the place of a result while the block runs; within one process also several times over.

    Before the first block, what a killed process left half written beside it is removed, and a result that one had
    moved away is put back. The lock is one that a dead process does not hold.

    Args:
        output: the file or directory that will be there. Its parents are made; if nothing came of it, they go again.

    Raises:
        OutputError: another process holds it, or there can be no lock beside it.
    """
    target = output.parent.resolve() / output.name
    lock = FileLock(beside(target, LOCK), timeout=0, is_singleton=True)
    if lock.is_locked:
        with lock:
            yield
        return
    made = _make_parents(target)
    try:
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(f"{target} is being written by another secateur; wait for it, or name another") from error
        except OSError as error:
            raise OutputError(f"{target} could not be written: {error.strerror or error}") from error
        try:
            _put_right(target)
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
    finally:
        for directory in made:
            with suppress(OSError):  # it holds something by now
                directory.rmdir()


def _make_parents(target: Path) -> list[Path]:
    """Make the directories above a result. Returns those that were not there, the lowest first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target} could not be written: {error.strerror or error}") from error
    return missing


def _put_right(target: Path) -> None:
    new, old = beside(target, NEW), beside(target, OLD)
    try:
        if old.exists() and not target.exists():
            old.rename(target)
            logger.info("A command that was stopped had moved %s away: it is back", target)
        for left in (old, new):
            if left.exists():
                discard(left)
                logger.info("Removed %s, which a command that was stopped had left", left)
    except OSError as error:
        raise OutputError(f"{target} could not be written: {error.strerror or error}") from error
