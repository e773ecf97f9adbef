"""Work that was stopped and goes on: what is done of it stands in `OUTPUT.partial`, beside its output."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateur import files
from secateur.errors import InputError, OutputError, SecateurError

SETTINGS = "settings.json"


class Unfinished(ABC):
    """The directory of unfinished work. It holds `settings.json`, what is done to what, and how; and what is done.

    Attributes:
        path: the directory.
        what: the work, in a word.
        error: what is raised where a file in the directory is damaged.
    """

    def __init__(self, output: Path, what: str, error: type[SecateurError] = InputError) -> None:
        self.path = output.with_name(f"{output.name}.partial")
        self.what, self.error = what, error

    @property
    @abstractmethod
    def begun(self) -> bool:
        """Whether there is anything to go on from."""

    def open(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Begin the work there, or find what was stopped.

        Args:
            settings: everything that changes the result, as JSON values.
            overwrite: drop work with other settings.

        Raises:
            InputError: work with other settings stands there.
            OutputError: something else does.
            SecateurError: it is damaged.
        """
        if self.path.exists() and not self._is_ours():
            raise OutputError(f"{self.path} is in the way of what this {self.what} keeps; move it elsewhere")
        if self.path.exists():
            changed = _differences(self._settings(), settings)
            if changed and not overwrite and self.begun:
                raise InputError(
                    f"{self.path} holds an unfinished {self.what} with other settings ({'; '.join(changed)}); repeat "
                    "those to go on with it, or pass --overwrite to begin anew"
                )
            if not changed:
                return
            self.remove()
        files.write_json(self.path / SETTINGS, settings)

    def remove(self) -> None:
        """Drop everything."""
        shutil.rmtree(self.path, ignore_errors=True)

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

    def _is_ours(self) -> bool:
        return (self.path / SETTINGS).is_file() or (self.path.is_dir() and not any(self.path.iterdir()))


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return [f"{name}: {_shown(before.get(name))}, now {_shown(now.get(name))}" for name in names]


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
