"""Writing results so that a kill or a full disk leaves either the old result or the new one, never half of one."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from secateur.errors import OutputError

FIGURE_FILES = (".json", ".png", ".svg", ".pdf")
# What runs and prepared data need to go on.
STATE_FILES = ("settings.json", "results.json", "meta.json", "options.json", "stages.json", "longrange.json")


def cache_directory() -> Path:
    """Where converted models and tokenised data are kept: `$SECATEUR_CACHE`, or `~/.cache/secateur`."""
    root = os.environ.get("SECATEUR_CACHE")
    return Path(root).expanduser() if root else Path.home() / ".cache" / "secateur"


def require_free(directory: str | Path, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()) -> Path:
    """Check, before any work is done, that `directory` may be written.

    Args:
        directory: where a result will go.
        overwrite: whether what is there may be replaced.
        inputs: models and texts that the work reads, as the user names them; None is passed over.

    Returns:
        The directory as a `Path`. It is not created.

    Raises:
        OutputError: it is a file, or holds something and `overwrite` is off, or holds an input, or cannot be written.
    """
    target = Path(directory).expanduser()
    if ".." in target.parts:
        target = target.resolve()
    if target.is_file():
        raise OutputError(f"{target} is a file; name a directory for the output")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise OutputError(f"{target} already holds something; name another directory or pass --overwrite")
    dangling = target.is_symlink() and not target.exists()
    if dangling or target.resolve().is_mount():
        kind = "a link to nothing" if dangling else "a mount point"
        raise OutputError(f"{target} is {kind}, which cannot be replaced; name a directory below it, or another one")
    require_apart(target, inputs)
    existing = next((parent for parent in (target, *target.parents) if parent.exists()), Path("/"))
    if not existing.is_dir():
        raise OutputError(f"{target} cannot be written: {existing} is a file, not a directory")
    if not os.access(existing, os.W_OK):
        raise OutputError(f"{target} cannot be written: no permission to write in {existing}")
    return target


def require_new_file(
    file: str | Path, suffix: str, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()
) -> Path:
    """Check, before any work is done, that a result may be written to one file.

    Args:
        file: where it will go.
        suffix: how such files are named, `.gguf`.
        overwrite: whether a file of that name may be replaced.
        inputs: models and texts that the work reads, as the user names them; None is passed over.

    Returns:
        The file as a `Path`.

    Raises:
        OutputError: it is named otherwise, is there and `overwrite` is off, is read by the work, or cannot be written.
    """
    target = Path(file).expanduser()
    if target.is_dir():
        raise OutputError(f"{target} is a directory; name a file, {target / f'model{suffix}'}")
    if target.suffix != suffix:
        raise OutputError(f"{target} does not end in {suffix}; name the output model{suffix} or the like")
    if any(name is not None and input_path(name).resolve() == target.resolve() for name in inputs):
        raise OutputError(f"{target} is read by this very command; name another file for the output")
    if (target.exists() or target.is_symlink()) and not target.is_file():
        raise OutputError(f"{target} is no ordinary file, and so is not replaced; name another file")
    if target.is_file() and not overwrite:
        raise OutputError(f"{target} is there already; name another file or pass --overwrite")
    existing = next(parent for parent in target.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OutputError(f"{target} cannot be written; name a file in a directory that can")
    return target


@contextmanager
def new_file(file: str | Path, suffix: str, overwrite: bool = False) -> Iterator[Path]:
    """Fill a file beside `file` and rename it into place when the block ends without an error.

    Yields:
        The path to write to. What is there is removed if the block raises.

    Raises:
        OutputError: as `require_new_file`, or the disk is full.
    """
    target = require_new_file(file, suffix, overwrite)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"{target} could not be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def require_writable(file: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check a file for figures before the work whose figures it is for.

    Args:
        file: where the figures go.
        inputs: models and texts that the work reads.

    Raises:
        OutputError: it cannot be written, or would replace something else than figures.
    """
    file = file.expanduser()
    existing = next(parent for parent in (file, *file.absolute().parents) if parent.exists())
    if file.is_dir() or (existing != file and not existing.is_dir()) or not os.access(existing, os.W_OK):
        raise OutputError(f"{file} cannot be written; name a file in a directory that can")
    if file.exists() and not file.is_file():
        raise OutputError(f"{file} is no ordinary file, and so is not replaced; name another file")
    if file.is_file() and file.suffix not in FIGURE_FILES:
        raise OutputError(f"{file} is there already and is not named like figures; name a new file, or a .json or .png")
    if file.is_file() and file.name in STATE_FILES:
        raise OutputError(f"{file} belongs to the run or the data in {file.parent}; name a new file")
    if file.is_file() and (file.parent / "config.json").is_file():
        raise OutputError(f"{file} belongs to the model in {file.parent}; name a new file")
    if file.is_file() and any(input_path(name).resolve() == file.resolve() for name in inputs):
        raise OutputError(f"{file} is read by this very command; name another file for the figures")


def input_path(name: str | Path) -> Path:
    """The path in what a user calls a model or text: `notes.txt` of `notes.txt[:80%]`. A hub id is one as well."""
    return Path(re.sub(r"\[[^\]]*\]$", "", str(name))).expanduser()


def require_apart(target: Path, inputs: Iterable[str | Path | None]) -> None:
    """Raise `OutputError` where replacing a directory would delete something that the work reads.

    Args:
        target: the directory.
        inputs: models and texts as the user names them: what is None or no path is passed over.
    """
    for name in inputs:
        if name is None:
            continue
        path = input_path(name)
        if path.exists() and target.exists() and path.resolve().is_relative_to(target.resolve()):
            raise OutputError(f"{target} holds {name}, which is still needed; name another directory for the output")


@contextmanager
def new_directory(directory: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Fill a directory beside `directory` and rename it into place when the block ends without an error.

    Yields:
        The hidden directory to fill. It is removed if the block raises.

    Raises:
        OutputError: as `require_free`, or the disk is full.
    """
    target = require_free(directory, overwrite)
    staging = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        staging.chmod(0o755)
        yield staging
        _swap(staging, target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{target} could not be written: {reason}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / target.name)
    try:
        staging.rename(target)
    except OSError:
        (old / target.name).rename(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` beside `path` and rename it into place.

    Raises:
        OutputError: the file cannot be written.
    """
    target = Path(path).expanduser()
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(f"{target} could not be written: {error.strerror or error}") from error


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, beside and renamed into place. Raises `OutputError`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, beside and renamed into place. Raises `OutputError`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
