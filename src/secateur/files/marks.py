"""The mark of a directory that secateur wrote: the list of its files, so that nothing else is ever deleted."""

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from secateur.errors import OutputError
from secateur.files.failures import reported
from secateur.files.names import is_beside
from secateur.files.replacing import replace_bytes

MARK = ".secateur.json"
# What stands near the beginning of a single file that secateur wrote, by its suffix.
FILE_MARKS = {".json": b'"written by": "secateur', ".png": b"Software\0secateur", ".gguf": b"secateur.version"}
# Bytes at either end of a file that its checksum is of.
SAMPLED = 2**20

Names = Mapping[str, str | None]


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
    if not os.path.lexists(directory):
        return True
    return directory.is_dir() and all(is_beside(entry) for entry in directory.iterdir())


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
            f"{directory} holds {entry.relative_to(directory)}, which secateur did not write, or not as it is; move it "
            "elsewhere, or name another directory"
        )


def foreign(directory: Path) -> Iterator[Path]:
    """Everything in a directory that its mark does not list: files, links, and directories as wholes."""
    yield from _foreign(directory, directory, _marked(directory) or {})


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
    wanted = {**(before or {}), **dict.fromkeys(names)}
    if before != wanted:
        _write_mark(directory, wanted)


def drop_from_mark(directory: Path, name: str) -> None:
    """Take a name out of a directory's mark. Raises `OutputError`."""
    _write_mark(directory, {other: told for other, told in (_marked(directory) or {}).items() if other != name})


def mark_all(directory: Path) -> None:
    """Write down all files of a directory as they are: one that is changed later is no longer secateur's."""
    files = [Path(place) / name for place, _, names in os.walk(directory) for name in names]
    _write_mark(
        directory,
        {
            glob.escape(file.relative_to(directory).as_posix()): _digest(file)
            for file in files
            if file != directory / MARK
        },
    )


def replace_own(directory: Path, contents: Mapping[str, str]) -> None:
    """Write text files anew in a directory that was finished before, or add them; what is not secateur's stays.

    Args:
        directory: with a mark.
        contents: text by file name.

    Raises:
        OutputError: a file cannot be written.
    """
    names = _marked(directory) or {}
    own = {
        name: text
        for name, text in contents.items()
        if not os.path.lexists(directory / name) or _is_as_written(directory / name, name, names)
    }
    # Killed from here on, the files are still known for secateur's.
    add_to_mark(directory, own)
    with reported(directory):
        for name, text in own.items():
            replace_bytes(directory / name, text.encode("utf-8"))
    _write_mark(directory, {**(_marked(directory) or {}), **{name: _digest(directory / name) for name in own}})


def is_as_written(directory: Path, name: str) -> bool:
    """Whether a file is secateur's, and not changed since."""
    file = directory / name
    return file.is_file() and not file.is_symlink() and _is_as_written(file, name, _marked(directory) or {})


def accept_changes(directory: Path) -> None:
    """Take the files that a directory's mark lists for secateur's as they are now, damaged or not."""
    names = _marked(directory)
    if names is None:
        return
    files = {name: directory / re.sub(r"\[(.)\]", r"\1", name) for name, digest in names.items() if digest}
    _write_mark(directory, {**names, **{name: _digest(file) for name, file in files.items() if file.is_file()}})


def _digest(file: Path) -> str:
    """Size and checksum of the beginning and the end: cheap for weights too, of which others differ everywhere."""
    size = file.stat().st_size
    with file.open("rb") as content:
        checksum = hashlib.blake2b(content.read(SAMPLED), digest_size=16)
        content.seek(max(SAMPLED, size - SAMPLED))
        checksum.update(content.read(SAMPLED))
    return f"{size} {checksum.hexdigest()}"


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


def _foreign(root: Path, directory: Path, names: Names) -> Iterator[Path]:
    for entry in sorted(directory.iterdir()):
        name = entry.relative_to(root).as_posix()
        if entry == root / MARK or is_beside(entry):
            continue
        if entry.is_symlink() or not entry.is_dir():
            if entry.is_symlink() or not entry.is_file() or not _is_as_written(entry, name, names):
                yield entry
        elif _matches(f"{name}/", names):
            yield from foreign(entry)
        elif any(own.startswith(f"{glob.escape(name)}/") for own in names):
            yield from _foreign(root, entry, names)
        else:
            yield entry


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_as_written(file: Path, name: str, names: Names) -> bool:
    told = [digest for pattern, digest in names.items() if fnmatchcase(name, pattern)]
    return None in told or (bool(told) and _digest(file) in told)


def _marked(directory: Path) -> dict[str, str | None] | None:
    """What the mark lists; None where there is none, or it is damaged, or names more than a directory's own files."""
    file = directory / MARK
    if file.is_symlink() or not file.is_file():
        return None
    try:
        names = json.loads(file.read_text(encoding="utf-8"))["files"]
        sound = all(isinstance(digest, str | None) and _is_own_name(name) for name, digest in names.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return names if sound else None


def _is_own_name(pattern: str) -> bool:
    """Whether a name or pattern says something, and stays within its directory."""
    parts = pattern.removesuffix("/").split("/")
    return parts[0] not in ("", "~") and ".." not in parts and re.search(r"\w", parts[0]) is not None


def _write_mark(directory: Path, names: Names) -> None:
    content = json.dumps({"written by": "secateur", "files": dict(sorted(names.items()))}, indent=1) + "\n"
    with reported(directory):
        directory.mkdir(parents=True, exist_ok=True)
        replace_bytes(directory / MARK, content.encode())
