"""Directories that appear whole, and directories that are filled over time."""

import ctypes
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from secateur.errors import OutputError
from secateur.files.checks import require_directory, require_free
from secateur.files.claims import claimed
from secateur.files.failures import reported
from secateur.files.marks import (
    add_to_mark,
    discard,
    drop_from_mark,
    is_empty,
    is_marked,
    is_unfilled,
    mark_all,
    require_only_own,
)
from secateur.files.names import OLD, beside, partial_of
from secateur.wording import worded

REPLACED = ".replaced"

logger = logging.getLogger(__name__)


@contextmanager
def new_directory(directory: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Fill a directory beside `directory` and put it into its place when the block ends without an error.

    Yields:
        The hidden directory to fill. It is removed if the block raises.

    Raises:
        OutputError: as `require_free` and `claimed`, or the disk is full.
    """
    target = require_free(directory, overwrite)
    with claimed(target) as staging, reported(target):
        yield staging
        _make_readable(staging)
        mark_all(staging)
        if target.exists():
            require_only_own(target)  # what came there meanwhile is not lost either
        _put_in_place(staging, target)
        if staging.exists():
            discard(staging)


def _make_readable(directory: Path) -> None:
    """Let whoever may read the directory read its files: safetensors makes those of weights for their owner alone."""
    mode = directory.stat().st_mode & 0o666
    for file in directory.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


@contextmanager
def working_directory(
    directory: str | Path, own: Sequence[str], what: str, *, overwrite: bool = False, inputs: Sequence[str] = ()
) -> Iterator[Path]:
    """A directory that is filled over time by work that goes on where it was stopped.

    Args:
        directory: new, empty, or of an earlier go of such work.
        own: the files that the work writes, as `add_to_mark` takes them. The first tells such directories from others.
        what: the directory is called, for messages.
        overwrite: begin anew. The new work is done in `DIRECTORY.partial`, where it also goes on if it is stopped, and
            takes the place of the old one when the block ends without an error.
        inputs: models and texts that the work reads.

    Yields:
        Where to work.

    Raises:
        OutputError: as `claimed`; or the directory is something else; or, with `overwrite`, holds something else too.
    """
    target = require_directory(directory, inputs)
    with claimed(target):
        _require_kind(target, own, what)
        if is_marked(target, REPLACED):
            _drop_replaced(target)
        place = target
        if overwrite and not (is_empty(target) and is_empty(partial_of(target))):
            place = partial_of(target)
            _require_kind(place, own, what, begun=True)  # it may have been stopped while it was emptied
            for there in (target, place):
                require_only_own(there)
        elif not is_empty(partial_of(target)):
            logger.info(worded("%s is left as it is; --overwrite would go on with it"), partial_of(target))
        add_to_mark(place, own)
        try:
            yield place
        except BaseException as problem:
            if is_unfilled(place):
                discard(place)
            elif isinstance(problem, KeyboardInterrupt):
                logger.info("What is done is kept in %s: the same command goes on with it", place)
            raise
        if place != target:
            _replace(place, target)


def _require_kind(directory: Path, own: Sequence[str], what: str, begun: bool = False) -> None:
    """Raise `OutputError` unless such work made a directory: by its mark and, unless known to be `begun`, a file."""
    if os.path.lexists(directory) and not directory.is_dir():
        raise OutputError(f"{directory} is no directory; move it elsewhere, or name another output")
    begun = begun or is_unfilled(directory) or any(directory.glob(own[0]))
    if not is_empty(directory) and not (begun and is_marked(directory, own[0])):
        raise OutputError(f"{directory} already holds something that is not {what}; name another directory")


def _replace(place: Path, target: Path) -> None:
    """Put a finished directory in the place of an old one."""
    with reported(target):
        if not is_empty(target):
            require_only_own(target)
        # Killed from here on, the next start knows by it which of the two is the old one.
        add_to_mark(place, [REPLACED])
        _put_in_place(place, target)
        _drop_replaced(target)


def _drop_replaced(target: Path) -> None:
    """Delete what a finished directory has taken the place of."""
    old = partial_of(target)
    if old.exists():
        discard(old)  # all in it was secateur's when it was replaced; a kill leaves marks of its parts behind
    drop_from_mark(target, REPLACED)


def _put_in_place(staging: Path, target: Path) -> None:
    """Rename a directory to its name. What was there has the other's name afterwards, or is gone."""
    if not target.exists() or not any(target.iterdir()):
        staging.rename(target)  # over an empty directory too
        return
    if _exchange(staging, target):
        return
    # Killed between the two, the next start puts the old one back.
    old = beside(target, OLD)
    target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        old.rename(target)
        raise
    discard(old)


def _exchange(one: Path, other: Path) -> bool:
    """Let two directories change names at once. Returns whether the system can, on this file system."""
    if sys.platform not in ("linux", "darwin"):
        return False
    sys.audit("os.rename", one, other, -1, -1)
    library, names = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    if hasattr(library, "renameat2"):
        here = -100  # AT_FDCWD
        return library.renameat2(here, names[0], here, names[1], 2) == 0  # RENAME_EXCHANGE
    return hasattr(library, "renamex_np") and library.renamex_np(*names, 2) == 0  # RENAME_SWAP
