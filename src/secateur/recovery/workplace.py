"""Where an unfinished training stands: `OUTPUT.partial`, beside its output."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateur import files
from secateur.errors import InputError, OutputError
from secateur.recovery import checkpoints

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"


class Workplace:
    """The directory of an unfinished training.

    It holds `settings.json` (what is being trained on what, and how), `checkpoint-STEP`, the last checkpoint, and
    `best`, the weights with the lowest validation loss. Each of them appears whole or not at all.
    """

    def __init__(self, output: Path) -> None:
        self.path = partial_directory(output)

    def open(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Begin a training there, or find the one that was stopped.

        Args:
            settings: everything that changes what is learned, as JSON values.
            overwrite: drop a training with other settings.

        Raises:
            InputError: a training with other settings stands there.
            OutputError: something else does.
            TrainingError: it is damaged.
        """
        if self.path.exists() and not self._is_ours():
            raise OutputError(f"{self.path} is in the way of this training's checkpoints; move it elsewhere")
        if self.path.exists():
            changed = _differences(self._settings(), settings)
            if changed and not overwrite and self.last_checkpoint() is not None:
                raise InputError(
                    f"{self.path} holds an unfinished training with other settings ({'; '.join(changed)}); repeat "
                    "those to go on with it, or pass --overwrite to begin anew"
                )
            if not changed:
                return
            self.remove()
        files.write_json(self.path / SETTINGS, settings)

    def last_checkpoint(self) -> Path | None:
        """The checkpoint to go on from."""
        found = [path for path in self.path.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
        return max(found, key=_step, default=None)

    @contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A directory to fill; when the block ends it is the last checkpoint, and the ones before go."""
        target = self.path / f"checkpoint-{step}"
        with files.new_directory(target, overwrite=True) as staging:
            yield staging
        for old in self.path.glob("checkpoint-*"):
            if old != target:
                shutil.rmtree(old)

    @property
    def best(self) -> Path:
        return self.path / "best"

    @contextmanager
    def new_best(self) -> Iterator[Path]:
        """A directory to fill with the best weights so far."""
        with files.new_directory(self.best, overwrite=True) as staging:
            yield staging

    def remove(self) -> None:
        """Drop everything."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _settings(self) -> dict[str, Any]:
        file = self.path / SETTINGS
        if not file.is_file():
            return {}
        with checkpoints.readable(file):
            return dict(json.loads(file.read_text(encoding="utf-8")))

    def _is_ours(self) -> bool:
        return (self.path / SETTINGS).is_file() or (self.path.is_dir() and not any(self.path.iterdir()))


def partial_directory(output: Path) -> Path:
    """Where the checkpoints of a training with this output stand."""
    return output.with_name(f"{output.name}.partial")


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return [f"{name}: {_shown(before.get(name))}, now {_shown(now.get(name))}" for name in names]


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
