"""The cache directory: open to its user alone, and nothing in it believed that another user could have written.

What is kept there decides figures (token ids) and is run as a model. A checksum beside an entry tells damage and
careless edits. It does not tell another user's work, who could write a checksum as well: against that the directories
are 0700, the files 0600, and what belongs to somebody else, or may be written by others, is not read.
"""

import logging
import os
import stat
from pathlib import Path

from secateur.errors import OutputError
from secateur.files import cache_directory, write_bytes

PARTS = ("losses", "models", "speeds", "tasks", "tokens")
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
logger = logging.getLogger(__name__)


def private_directory(part: str) -> Path:
    """The directory of one part of the cache, made or tightened so that only this user can read and write it.

    `$SECATEUR_CACHE` itself is tightened only where it holds nothing but the cache: it may be a directory with another
    purpose, `/tmp` for example.

    Args:
        part: one of `PARTS`.

    Raises:
        OutputError: it cannot be made, or belongs to another user.
    """
    root = cache_directory()
    directory = root / part
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        for path in (root, directory):
            path.mkdir(mode=0o700, exist_ok=True)
        if _holds_the_cache_alone(root):
            _tighten(root)
        _tighten(directory)
    except OSError as error:
        raise OutputError(f"{directory} could not be written: {error.strerror or error}") from error
    return directory


def write_private(path: Path, content: bytes) -> None:
    """Write a file of the cache, readable by this user alone. Raises `OutputError`."""
    write_bytes(path, content)
    make_private(path)


def make_private(path: Path) -> None:
    """Take everyone else's rights to a file or a directory, and to what it holds. Raises `OutputError`."""
    try:
        for entry in (path, *path.rglob("*")) if path.is_dir() else (path,):
            if not entry.is_symlink():
                entry.chmod(0o700 if entry.is_dir() else 0o600)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror or error}") from error


def distrust(path: Path) -> str | None:
    """Why an entry of the cache may be another user's work; None where it cannot be.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be looked at.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return "it is a link"
    if found.st_uid != _user(found):
        return "it belongs to another user"
    if found.st_mode & _OTHERS_MAY_WRITE:
        return "other users may write it"
    return None


def _tighten(directory: Path) -> None:
    found = directory.stat()
    if found.st_uid != _user(found):
        raise OutputError(f"{directory} belongs to another user; set SECATEUR_CACHE to a directory of your own")
    if stat.S_IMODE(found.st_mode) & 0o077:
        logger.debug("%s is closed to other users", directory)
        directory.chmod(0o700)
        for entry in directory.iterdir():
            if entry.is_file() and not entry.is_symlink() and not entry.stat().st_mode & _OTHERS_MAY_WRITE:
                entry.chmod(0o600)


def _holds_the_cache_alone(root: Path) -> bool:
    shared = root.stat().st_mode & stat.S_ISVTX or root.resolve() == Path.home()
    return not shared and all(entry.name in PARTS for entry in root.iterdir())


def _user(found: os.stat_result) -> int:
    # Where there are no user numbers, as on Windows, everything counts as this user's.
    return os.geteuid() if hasattr(os, "geteuid") else found.st_uid
