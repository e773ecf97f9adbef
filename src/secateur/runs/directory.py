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

from pydantic import TypeAdapter, ValidationError

from secateur.distributed import barrier, first_decides, is_first, shared_directory
from secateur.errors import InputError, OutputError
from secateur.files import (
    accept_changes,
    claimed,
    expanded,
    input_path,
    is_marked,
    is_own,
    new_directory,
    partial_of,
    remove_own,
    write_json,
)
from secateur.files.json_text import read_json
from secateur.files.marks import MARK
from secateur.files.result_files import CARD, LINEAGE, STAGES
from secateur.wording import asked_by

logger = logging.getLogger(__name__)

TOLD = (CARD, LINEAGE, MARK)
MODEL_FILES = ("*.safetensors", "config.json", "*.gguf")


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: also the name of its directory.
        settings: what its result depends on, beside the stages it needs: plain JSON values.
        inputs: models and texts outside the run that it reads, as the settings name them.
        needs: names of earlier stages whose results it reads.
        work: makes the stage's directory, whose path it is given, by `files.new_directory` or in its way, replacing
            what an earlier go has made.
    """

    name: str
    settings: Mapping[str, Any]
    work: Callable[[Path], None]
    inputs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass
class StageProgress:
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
    """A run directory and what its state file says.

    Attributes:
        path: where the work is done.
        progress: of each stage.
    """

    path: Path
    progress: dict[str, StageProgress] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(
        cls, directory: str | Path, own: Sequence[str] = (), *, overwrite: bool = False, inputs: Sequence[str] = ()
    ) -> "Iterator[Run]":
        """Create a run directory, or go on with one, and hold it while the block runs.

        Args:
            directory: the run's directory. It need not be there.
            own: what the run writes there beside its state, as `files.add_to_mark` takes it: its stages' directories
                and files.
            overwrite: start afresh beside an old run, which is replaced when the block ends without an error.
            inputs: models and texts that the run reads.

        Raises:
            OutputError: the directory holds something that is not a run, or one of the inputs, or cannot be written.
        """
        with shared_directory(expanded(directory), [STAGES, *own], "a run", overwrite=overwrite, inputs=inputs) as path:
            run = cls(path)
            if not is_first():
                barrier()
                yield run
                return
            state_file = path / STAGES
            if state_file.is_file():
                run.progress = _read_state(state_file, overwrite)
            run._save()
            barrier()
            yield run

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
                    barrier()
                    stage.work(self.path / stage.name)
                barrier()
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
            barrier()

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
            other = Run(path, _read_state(path / STAGES))
            if not other._is_done(name, fingerprint):
                continue
            accept_changes(self.path / name)
            with new_directory(self.path / name, overwrite=True) as staging:
                shutil.copytree(path / name, staging, dirs_exist_ok=True)
            self.progress[name] = other.progress[name]
            self._save()
            logger.info("%-18s the same as in %s", name, path.name)
            return True
        return False

    def _do(self, stage: Stage, fingerprint: str) -> None:
        directory = self.path / stage.name
        logger.info("%-18s …", stage.name)
        start = time.perf_counter()
        accept_changes(directory)  # that the stage is not as it was is why it is done again
        with claimed(directory):
            barrier()  # the others find the place free
            with asked_by("recipe"):
                stage.work(directory)
        self.progress[stage.name] = StageProgress(
            fingerprint,
            seconds=time.perf_counter() - start,
            finished=datetime.datetime.now(datetime.UTC).isoformat(),
            files=_files_below(directory),
        )
        self._save()
        logger.info("%-18s %.1f s", stage.name, self.progress[stage.name].seconds)

    def _forget(self, wanted: set[str]) -> None:
        for name in set(self.progress) - wanted:
            for left in (self.path / name, partial_of(self.path / name)):
                if not left.exists():
                    continue
                if not is_marked(self.path, f"{left.name}/") or not is_own(left):
                    logger.warning("%s is no stage any more and left as it is: it holds more than one", left)
                else:
                    remove_own(left)
            del self.progress[name]
            self._save()

    def _save(self) -> None:
        if not is_marked(self.path, STAGES):
            raise OutputError(f"{self.path} was removed while the run was in it; the same command begins it anew")
        write_json(self.path / STAGES, {name: asdict(done) for name, done in self.progress.items()})


def _files_below(directory: Path) -> dict[str, int]:
    """Sizes by name. What tells of the figures is written anew at a run's end, and says nothing of the work."""
    files = (file for file in directory.rglob("*") if file.is_file() and file.name not in TOLD)
    return {str(file.relative_to(directory)): file.stat().st_size for file in files}


def _fingerprint(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_state(name: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files that `notes.txt[:80%]` or `models/mine` stands for; none for a hub id."""
    path = input_path(name)
    files = [path] if path.is_file() else [file for pattern in MODEL_FILES for file in path.glob(pattern)]
    return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _read_state(file: Path, overwrite: bool = False) -> dict[str, StageProgress]:
    try:
        progress = TypeAdapter(dict[str, StageProgress]).validate_python(read_json(file))
        if all(re.fullmatch(r"\w[\w-]*", name) for name in progress):
            return progress
        raise TypeError("a stage is named like a path")
    except (InputError, ValidationError, TypeError) as error:
        instead = f"remove {file.parent}" if overwrite else "pass --overwrite"
        raise OutputError(f"{file} is damaged; {instead} to start the run afresh") from error
