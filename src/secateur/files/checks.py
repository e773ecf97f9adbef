"""What is checked, before any work is done, about where a result goes."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from secateur.errors import OptionError, OutputError
from secateur.files.failures import reported
from secateur.files.marks import is_empty, is_marked, is_own_file, require_only_own
from secateur.files.names import OLD, beside, expanded, followed


def cache_directory() -> Path:
    """Where converted models and tokenised data are kept: `$SECATEUR_CACHE`, or `~/.cache/secateur`."""
    root = os.environ.get("SECATEUR_CACHE")
    return expanded(root) if root else Path.home() / ".cache" / "secateur"


def require_free(directory: str | Path, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()) -> Path:
    """Check, before any work is done, that a result may become `directory`.

    Args:
        directory: where it will go.
        overwrite: whether what secateur wrote there may be replaced.
        inputs: models and texts that the work reads, as the user names them; None is passed over.

    Returns:
        The directory as a `Path`; what a link leads to. It is not created.

    Raises:
        OutputError: as `require_directory`, or it holds something and `overwrite` is off, or something that secateur
            did not write.
    """
    target = require_directory(directory, inputs)
    # What a killed command has moved away comes back as soon as the place is claimed.
    there = [place for place in (target, beside(target, OLD)) if not is_empty(place)]
    if there and not overwrite:
        raise OutputError(f"{target} already holds something; name another directory or pass --overwrite")
    for place in there:
        require_only_own(place)
    return target


def require_directory(directory: str | Path, inputs: Iterable[str | Path | None] = ()) -> Path:
    """Check that secateur may write in a directory, whatever it holds. Arguments and result as `require_free`.

    Raises:
        OutputError: it is a file, the root, the home or the current directory or above one of these, or holds an
            input, or cannot be written.
    """
    target = _named(directory)
    with reported(target):
        dangling = target.is_symlink() and not target.exists()
        if not dangling and (target.is_symlink() or ".." in target.parts):
            target = followed(target)
        for place, name in ((Path.home(), "your home directory"), (Path.cwd(), "the current directory")):
            if followed(target) in (followed(place), *followed(place).parents):
                raise OutputError(f"{target} is {name}, or above it; name a directory below it")
        if target.is_file():
            raise OutputError(f"{target} is a file; name a directory for the output")
        if dangling or followed(target).is_mount():
            kind = "a link to nothing" if dangling else "a mount point"
            raise OutputError(
                f"{target} is {kind}, which cannot be replaced; name a directory below it, or another one"
            )
        require_apart(target, inputs)
        existing = next((parent for parent in (target, *target.parents) if parent.exists()), Path("/"))
        if not existing.is_dir():
            raise OutputError(f"{target} cannot be written: {existing} is a file, not a directory")
        if not os.access(existing, os.W_OK):
            raise OutputError(f"{target} cannot be written: no permission to write in {existing}")
    return target


def _named(name: str | Path) -> Path:
    """The path of an output. Raises `OutputError` where its name is no text, or it is one of the system's own files."""
    target = expanded(name)
    try:
        str(target).encode("utf-8")
    except UnicodeEncodeError as error:
        raise OutputError(f"the output {str(target)!r} is not named in UTF-8; give it another name") from error
    place = target.absolute().parts[1:3]
    if place[:1] in (("proc",), ("sys",)) or (place[:1] == ("dev",) and place != ("dev", "shm")):
        raise OutputError(f"{target} is no ordinary file or directory; name another output")
    return target


def require_own_files(directory: Path, names: Iterable[str]) -> None:
    """Raise `OutputError` where a file of one of these names stands in a directory and is not secateur's."""
    for name in names:
        if (directory / name).exists() and not is_marked(directory, name):
            raise OutputError(
                f"{directory / name} was not written by secateur, and so is not replaced; name another directory"
            )


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
        OutputError: it is named otherwise, is there and `overwrite` is off or secateur did not write it, is read by the
            work, or cannot be written.
    """
    target = _named(file)
    with reported(target):
        target = followed(target) if target.is_symlink() else target
        if target.is_dir():
            raise OutputError(f"{target} is a directory; name a file, {target / f'model{suffix}'}")
        if target.suffix != suffix:
            raise OptionError(f"{target} does not end in {suffix}; name the output model{suffix} or the like")
        if any(name is not None and followed(input_path(name)) == followed(target) for name in inputs):
            raise OutputError(f"{target} is read by this very command; name another file for the output")
        if (target.exists() or target.is_symlink()) and not target.is_file():
            raise OutputError(f"{target} is no ordinary file, and so is not replaced; name another file")
        if target.is_file() and not overwrite:
            raise OutputError(f"{target} is there already; name another file or pass --overwrite")
        if target.is_file() and not is_own_file(target):
            raise OutputError(f"{target} was not written by secateur, and so is not replaced; name another file")
        existing = next(parent for parent in target.absolute().parents if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise OutputError(f"{target} cannot be written; name a file in a directory that can")
    return target


def require_writable(file: Path, inputs: Iterable[str | Path] = (), output: Path | None = None) -> None:
    """Check a file for figures before the work whose figures it is for.

    Args:
        file: where the figures go.
        inputs: models and texts that the work reads.
        output: the directory that the work makes.

    Raises:
        OutputError: it cannot be written, or would replace something else than figures, or lies in a result.
    """
    file = _named(file)
    with reported(file):
        file = followed(file) if file.is_symlink() else file
        _require_place_for_figures(file, output)
        if file.is_file() and any(followed(input_path(name)) == followed(file) for name in inputs):
            raise OutputError(f"{file} is read by this very command; name another file for the figures")
        if file.is_file() and not is_own_file(file) and file.stat().st_size:
            raise OutputError(f"{file} is there already and holds no figures that secateur wrote; name a new file")


def _require_place_for_figures(file: Path, output: Path | None) -> None:
    existing = next(parent for parent in (file, *file.absolute().parents) if parent.exists())
    if file.is_dir() or (existing != file and not existing.is_dir()) or not os.access(existing, os.W_OK):
        raise OutputError(f"{file} cannot be written; name a file in a directory that can")
    if (file.exists() or file.is_symlink()) and not file.is_file():
        raise OutputError(f"{file} is no ordinary file, and so is not replaced; name another file")
    if file.is_file() and (file.parent / "config.json").is_file():
        raise OutputError(f"{file} belongs to the model in {file.parent}; name a new file")
    if output is not None and followed(output) == followed(file):
        raise OutputError(f"{file} is where the result goes; name another file for the figures")
    results = [parent for parent in file.absolute().parents if is_marked(parent)]
    if results or (output is not None and followed(output) in followed(file).parents):
        raise OutputError(
            f"{file} lies in a result of secateur's, {results[0] if results else output}; name a file outside of it"
        )


def input_path(name: str | Path) -> Path:
    """The path in what a user calls a model or text: `notes.txt` of `notes.txt[:80%]`. A hub id is one as well."""
    return expanded(re.sub(r"\[[^\]]*\]$", "", str(name)))


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
        if path.exists() and target.exists() and followed(path).is_relative_to(followed(target)):
            raise OutputError(f"{target} holds {name}, which is still needed; name another directory for the output")
