"""One file in the place of another, at once."""

import os
from pathlib import Path

from filelock import lock_descriptor

from secateur.files.names import NEW, beside


def replace_bytes(target: Path, content: bytes) -> None:
    """Write a file beside `target` and rename it into place. Raises `OSError`."""
    temporary = beside(target, NEW)
    with os.fdopen(_held(temporary), "wb") as file:
        try:
            file.write(content)
            file.flush()
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def is_opened(path: Path, descriptor: int) -> bool:
    """Whether a path still names what was opened, which another process may have renamed or removed."""
    return os.path.lexists(path) and os.path.samestat(path.lstat(), os.fstat(descriptor))


def _held(path: Path) -> int:
    """Open a file to write, empty, that no other process writes meanwhile. What a killed one left is used again."""
    while True:
        # A link there is none of ours: what it leads to is not written.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            lock_descriptor(descriptor)
            if is_opened(path, descriptor):
                os.ftruncate(descriptor, 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
