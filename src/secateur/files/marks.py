"""The mark of a directory that secateur wrote: the list of its files, so that nothing else is ever deleted."""

import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from secateur.errors import OutputError
from secateur.files.failures import reported
from secateur.files.names import NEW, beside, is_beside

MARK = ".secateur.json"
# What stands near the beginning of a single file that secateur wrote, by its suffix.
FILE_MARKS = {".json": b'"written by": "secateur', ".png": b"Software\0secateur", ".gguf": b"secateur.version"}


def is_marked(directory: Path, file: str | None = None) -> bool:
    """Whether secateur wrote a directory, and `file` among what it wrote."""
    names = _marked(directory)
    return names is not None and (file is None or _matches(file, names))


def is_own_file(file: Path) -> bool:
    """Whether secateur wrote a single file: figures, a picture, a GGUF file."""
    mark = FILE_MARKS.get(file.suffix)
    if mark is None:
        return False
    with file.open("rb") as content:
        return mark in content.read(4096)


def is_empty(directory: Path) -> bool:
    """Whether a directory is not there, or holds nothing but what a killed process left of its first file."""
    return not directory.exists() or all(is_beside(entry) for entry in directory.iterdir())


def is_unfilled(directory: Path) -> bool:
    """Whether a directory holds its mark and no result yet."""
    return directory.is_dir() and all(entry.name == MARK or is_beside(entry) for entry in directory.iterdir())


def is_own(directory: Path) -> bool:
    """Whether all that a directory holds is secateur's."""
    return next(foreign(directory), None) is None


def require_only_own(directory: Path) -> None:
    """Raise `OutputError` where a directory that is to be replaced holds what secateur did not write."""
    if is_empty(directory):
        return
    if _marked(directory) is None:
        raise OutputError(
            f"{directory} was not written by secateur (it has no {MARK}), and so is not replaced; name another "
            "directory, or remove it yourself"
        )
    entry = next(foreign(directory), None)
    if entry is not None:
        raise OutputError(
            f"{directory} holds {entry.relative_to(directory)}, which secateur did not write; move it elsewhere, or "
            "name another directory"
        )


def foreign(directory: Path) -> Iterator[Path]:
    """Everything in a directory that its mark does not list: files, links, and directories as wholes."""
    yield from _foreign(directory, directory, _marked(directory) or [])


def add_to_mark(directory: Path, names: Iterable[str]) -> None:
    """Write down, before they are written, files of a directory that is filled over time.

    Args:
        directory: made where it is not there.
        names: of files below it, as patterns (`fnmatch`); with a slash at the end, of directories that have marks of
            their own.

    Raises:
        OutputError: the mark cannot be written.
    """
    before = _marked(directory)
    wanted = sorted({*(before or []), *names})
    if before is not None and wanted == sorted(before):
        return
    _write_mark(directory, wanted)


def drop_from_mark(directory: Path, name: str) -> None:
    """Take a name out of a directory's mark. Raises `OutputError`."""
    left = [other for other in _marked(directory) or [] if other != name]
    _write_mark(directory, left)


def files_below(directory: Path) -> list[str]:
    """All files below a directory, as `add_to_mark` takes them."""
    return [
        glob.escape((Path(place) / name).relative_to(directory).as_posix())
        for place, _, names in os.walk(directory)
        for name in names
        if name != MARK
    ]


def remove_own(directory: Path) -> list[Path]:
    """Delete what secateur wrote in a directory, and the directory if that was all.

    Returns:
        What is left.
    """
    left = list(foreign(directory))
    if not left:
        discard(directory)
        return []
    _remove_all_but(directory, set(left))  # the mark too: what is left is no result of secateur's
    return left


def clear_own(directory: Path) -> None:
    """Delete what secateur wrote in a directory, but not its mark. Raises `OutputError`."""
    with reported(directory):
        _remove_all_but(directory, {*foreign(directory), directory / MARK})


def discard(path: Path) -> None:
    """Delete a file, or a directory, its mark last: killed half-way, it is still known for what it is."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != MARK:
            entry.unlink(missing_ok=True)
    (path / MARK).unlink(missing_ok=True)
    path.rmdir()


def _remove_all_but(directory: Path, spared: set[Path]) -> None:
    for entry in directory.iterdir():
        if entry in spared:
            continue
        if any(entry in path.parents for path in spared):
            _remove_all_but(entry, spared)
        else:
            discard(entry)


def _foreign(root: Path, directory: Path, names: Sequence[str]) -> Iterator[Path]:
    for entry in sorted(directory.iterdir()):
        name = entry.relative_to(root).as_posix()
        if entry == root / MARK or is_beside(entry):
            continue
        if entry.is_symlink() or not entry.is_dir():
            if not _matches(name, names):
                yield entry
        elif _matches(f"{name}/", names):
            yield from foreign(entry)
        elif any(own.startswith(f"{glob.escape(name)}/") for own in names):
            yield from _foreign(root, entry, names)
        else:
            yield entry


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _marked(directory: Path) -> list[str] | None:
    """What the mark lists; None where there is none, or it is damaged."""
    try:
        content = json.loads((directory / MARK).read_text(encoding="utf-8"))
        names = content["files"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _write_mark(directory: Path, names: list[str]) -> None:
    # Beside and renamed, as `write_bytes` does, which stands on this module.
    temporary = beside(directory / MARK, NEW)
    with reported(directory):
        directory.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"written by": "secateur", "files": names}, indent=1) + "\n", encoding="utf-8")
        temporary.replace(directory / MARK)
