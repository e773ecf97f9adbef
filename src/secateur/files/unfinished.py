"""Work that was stopped and goes on: what is done of it stands in `OUTPUT.partial`, beside its output."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateur import files
from secateur.errors import InputError, OutputError, SecateurError
from secateur.files.result_files import SETTINGS

FINISHED = ".finished"

logger = logging.getLogger(__name__)


class Unfinished(ABC):
    """The directory of unfinished work. It holds `settings.json`, what is done to what, and how; and what is done.

    Attributes:
        path: the directory.
        what: the work, in a word.
        own: the files that it keeps there beside its settings, as `files.add_to_mark` takes them.
        result: a file of the output that such work alone writes.
        error: what is raised where a file in the directory is damaged.
    """

    def __init__(
        self, output: Path, what: str, own: Sequence[str], result: str, error: type[SecateurError] = InputError
    ) -> None:
        self.output, self.path = output, files.partial_of(output)
        self.what, self.own, self.result, self.error = what, own, result, error

    @property
    @abstractmethod
    def begun(self) -> bool:
        """Whether there is anything to go on from."""

    def open(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Begin the work there, or find what was stopped.

        Args:
            settings: everything that changes the result, as JSON values; `work` tells kinds of work apart.
            overwrite: drop work with other settings.

        Raises:
            InputError: work with other settings stands there.
            OutputError: something else does.
            SecateurError: it is damaged.
        """
        if self.path.is_symlink() or not (files.is_empty(self.path) or files.is_marked(self.path, SETTINGS)):
            raise OutputError(f"{self.path} is in the way of what this {self.what} keeps; move it elsewhere")
        if not files.is_empty(self.path):
            before = self._settings()
            if before and before.get("work") != settings.get("work") and not overwrite:
                raise InputError(
                    f"{self.path} holds unfinished work of another command; repeat that one to go on with it, or pass "
                    "--overwrite to drop it"
                )
            changed = _differences(before, settings)
            if changed and not overwrite and self.begun:
                raise InputError(
                    f"{self.path} holds an unfinished {self.what} with other settings ({'; '.join(changed)}); repeat "
                    "those to go on with it, or pass --overwrite to begin anew"
                )
            if not changed:
                return
            self.remove()
        files.add_to_mark(self.path, [SETTINGS, *self.own])
        files.write_json(self.path / SETTINGS, settings)

    def tell(self) -> None:
        """Log what is kept of work that is interrupted."""
        if self.begun:
            logger.info("What is done is kept in %s: the same command goes on with it", self.path)

    def finish(self) -> None:
        """Note that what is written to the output from now on is this work's: see `is_finished`."""
        files.add_to_mark(self.path, [FINISHED])

    @property
    def is_finished(self) -> bool:
        """Whether the output is this work's result, and the work was stopped before it was dropped: it may go on."""
        finished = files.is_marked(self.path, FINISHED) and files.is_marked(self.output, self.result)
        return finished or self.is_dropped

    @property
    def is_dropped(self) -> bool:
        """Whether the output is this work's result, and the work was stopped while it was dropped."""
        return files.dropped(self.output).exists() and files.is_marked(self.output, self.result)

    def remove(self) -> None:
        """Drop everything that the work has kept."""
        if not self.path.exists():
            return
        with files.reported(self.path):
            if files.is_own(self.path):
                # At once, so that no half of it is ever gone on from. A claim of the output drops what a kill leaves.
                self.path.rename(files.dropped(self.output))
                files.remove_own(files.dropped(self.output))
                return
            left = files.remove_own(self.path)
        if left:
            logger.warning("%s is left: secateur did not write it", left[0])

    @contextmanager
    def readable(self, path: Path) -> Iterator[None]:
        """Turn what reading a damaged JSON file raises into an error that names it."""
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise self.error(
                f"{path} is damaged ({reason}), so the {self.what} cannot go on; delete {path.parent} to begin anew"
            ) from error

    def _settings(self) -> dict[str, Any]:
        file = self.path / SETTINGS
        if not file.is_file():
            return {}
        with self.readable(file):
            return dict(json.loads(file.read_text(encoding="utf-8")))


def contents_of(inputs: Iterable[str | Path | None]) -> dict[str, str]:
    """What files hold that work depends on, as a digest, for its settings; None is passed over.

    Raises:
        InputError: one cannot be read.
    """
    found = {}
    for file in (files.expanded(name) for name in inputs if name is not None):
        try:
            found[f"content of {file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror or error}; check the path") from error
    return found


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return [f"{name}: {_shown(before.get(name))}, now {_shown(now.get(name))}" for name in names]


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
