"""What the file system refuses, as an error of the work."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from secateur.errors import OutputError


@contextmanager
def reported(target: Path) -> Iterator[None]:
    """Turn what a full disk or a missing permission raises in the block into an `OutputError` that names `target`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{target} could not be written: {getattr(error, 'strerror', None) or error}") from error
