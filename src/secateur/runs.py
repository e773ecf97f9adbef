"""The run directory: what is done already, what has to be done again, and how long each stage took."""

import datetime
import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secateur.errors import OutputError
from secateur.files import input_path, require_free, write_json
from secateur.models.processes import first_decides, is_first, wait_for_all

logger = logging.getLogger(__name__)

STATE = "stages.json"
MODEL_FILES = ("*.safetensors", "config.json", "*.gguf")


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: also the name of its directory.
        settings: what its result depends on, beside the stages it needs: plain JSON values.
        inputs: models and texts outside the run that it reads, as the settings name them.
        needs: names of earlier stages whose results it reads.
        work: makes the stage's directory, whose path it is given; nothing is there then.
    """

    name: str
    settings: Mapping[str, Any]
    work: Callable[[Path], None]
    inputs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass
class Progress:
    """How far a stage is.

    Attributes:
        fingerprint: of all that its result depends on.
        seconds: of the go that finished it; None until it is done.
        finished: when that was.
        files: what it has written, by name with the sizes.
    """

    fingerprint: str
    seconds: float | None = None
    finished: str | None = None
    files: dict[str, int] = field(default_factory=dict)


@dataclass
class Run:
    """A run directory and what its state file says."""

    path: Path
    progress: dict[str, Progress] = field(default_factory=dict)

    @classmethod
    def open(cls, directory: str | Path, overwrite: bool = False, inputs: Sequence[str] = ()) -> "Run":
        """Create a run directory, or go on with one. Of several processes the first does that.

        Args:
            directory: the run's directory. It need not be there.
            overwrite: start afresh: what the run left there is deleted.
            inputs: models and texts that the run reads.

        Raises:
            OutputError: the directory holds something that is not a run, or one of the inputs, or cannot be written.
        """
        if not is_first():
            wait_for_all()
            return cls(Path(directory).expanduser())
        path = require_free(directory, overwrite=True, inputs=inputs)
        state_file = path / STATE
        if path.is_dir() and any(path.iterdir()) and not state_file.is_file():
            raise OutputError(f"{path} holds something that is not a run; name another directory with -o")
        if overwrite and path.is_dir():
            shutil.rmtree(path)
        run = cls(path)
        if state_file.is_file():
            run.progress = _read_state(state_file)
        run._save()
        wait_for_all()
        return run

    def execute(self, stages: Sequence[Stage], shared: Sequence[Path] = ()) -> None:
        """Do the stages in order, except those that are done and whose settings are unchanged.

        A stage is done again when its settings or a file or model that they name have changed, when files of its own
        are gone or of another size, and when a stage it needs was done again.
        Results of stages that are no longer asked for are deleted. Of several processes the first decides what is to
        be done, all do it, and the first keeps the account.

        Args:
            stages: in order.
            shared: other runs. A stage that is done there with the same settings is copied instead of done here.
        """
        if not is_first():
            for stage in stages:
                if not first_decides(False):
                    wait_for_all()
                    stage.work(self.path / stage.name)
                wait_for_all()
            return
        self._forget({stage.name for stage in stages})
        fingerprints: dict[str, str] = {}
        for stage in stages:
            needed = [(fingerprints[name], self.progress[name].finished) for name in stage.needs]
            files = [_file_state(name) for name in stage.inputs]
            fingerprint = fingerprints[stage.name] = _fingerprint([stage.settings, files, needed])
            done = self._is_done(stage.name, fingerprint)
            if done:
                logger.info("%-18s done before", stage.name)
            if not first_decides(done or self._take_over(stage.name, fingerprint, shared)):
                self._do(stage, fingerprint)
            wait_for_all()

    def seconds(self) -> dict[str, float]:
        """How long each finished stage took."""
        return {name: done.seconds for name, done in self.progress.items() if done.seconds is not None}

    def _is_done(self, name: str, fingerprint: str) -> bool:
        done = self.progress.get(name)
        return (
            done is not None
            and done.fingerprint == fingerprint
            and done.seconds is not None
            and done.files.items() <= _files_below(self.path / name).items()
        )

    def _take_over(self, name: str, fingerprint: str, shared: Sequence[Path]) -> bool:
        """Copy a stage from the first of other runs where it is done. Returns whether there is one."""
        for path in shared:
            other = Run(path, _read_state(path / STATE))
            if not other._is_done(name, fingerprint):
                continue
            with _set_aside(self.path / name):
                shutil.copytree(path / name, self.path / name)
            self.progress[name] = other.progress[name]
            self._save()
            logger.info("%-18s the same as in %s", name, path.name)
            return True
        return False

    def _do(self, stage: Stage, fingerprint: str) -> None:
        directory = self.path / stage.name
        before = self.progress.get(stage.name)
        self.progress[stage.name] = Progress(fingerprint)
        self._save()
        logger.info("%-18s …", stage.name)
        start = time.perf_counter()
        with _set_aside(directory):
            try:
                wait_for_all()  # the others find the place free
                stage.work(directory)
            except BaseException:
                if before is not None:
                    self.progress[stage.name] = before
                    self._save()
                raise
        done = self.progress[stage.name]
        done.seconds = time.perf_counter() - start
        done.finished = datetime.datetime.now(datetime.UTC).isoformat()
        done.files = _files_below(directory)
        self._save()
        logger.info("%-18s %.1f s", stage.name, done.seconds)

    def _forget(self, wanted: set[str]) -> None:
        for name in set(self.progress) - wanted:
            del self.progress[name]
            self._save()
            for left in (self.path / name, *self.path.glob(f"{name}.*"), self.path / f".{name}.before"):
                shutil.rmtree(left, ignore_errors=True)

    def _save(self) -> None:
        write_json(self.path / STATE, {name: asdict(done) for name, done in self.progress.items()})


@contextmanager
def _set_aside(directory: Path) -> Iterator[None]:
    """Move a directory away while the block makes a new one; put it back if the block fails."""
    old = directory.with_name(f".{directory.name}.before")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    try:
        yield
    except BaseException:
        if old.exists():
            shutil.rmtree(directory, ignore_errors=True)
            old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _files_below(directory: Path) -> dict[str, int]:
    return {str(file.relative_to(directory)): file.stat().st_size for file in directory.rglob("*") if file.is_file()}


def _fingerprint(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_state(name: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files that `notes.txt[:80%]` or `models/mine` stands for; none for a hub id."""
    path = input_path(name)
    files = [path] if path.is_file() else [file for pattern in MODEL_FILES for file in path.glob(pattern)]
    return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _read_state(file: Path) -> dict[str, Progress]:
    try:
        progress = {name: Progress(**done) for name, done in json.loads(file.read_text(encoding="utf-8")).items()}
        if all(re.fullmatch(r"\w[\w-]*", name) for name in progress):
            return progress
        raise TypeError("a stage is named like a path")
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise OutputError(f"{file} is damaged; pass --overwrite to start the run afresh") from error
