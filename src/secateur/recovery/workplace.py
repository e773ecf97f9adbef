"""Where an unfinished training stands: `OUTPUT.partial`, beside its output."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur import files
from secateur.errors import TrainingError
from secateur.files.unfinished import Unfinished
from secateur.recovery.arguments import REPORTS

HISTORY_FILE = "recovery.json"
OWN = ("checkpoint-*/", "best/", f"{REPORTS}/*")


class Workplace(Unfinished):
    """The directory of an unfinished training.

    Beside `settings.json` it holds `checkpoint-STEP`, the last checkpoint, and `best`, the weights with the lowest
    validation loss. Each of them appears whole or not at all.
    """

    def __init__(self, output: Path) -> None:
        super().__init__(output, "training", OWN, HISTORY_FILE, TrainingError)

    @property
    def begun(self) -> bool:
        return self.last_checkpoint() is not None

    def last_checkpoint(self) -> Path | None:
        """The checkpoint to go on from."""
        found = [path for path in self.path.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
        return max(filter(files.is_marked, found), key=_step, default=None)

    @contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A directory to fill; when the block ends it is the last checkpoint, and the ones before go."""
        target = self.path / f"checkpoint-{step}"
        with files.new_directory(target, overwrite=True) as staging:
            yield staging
        for old in self.path.glob("checkpoint-*"):
            if old != target:
                files.remove_own(old)

    @property
    def best(self) -> Path:
        return self.path / "best"

    @contextmanager
    def new_best(self) -> Iterator[Path]:
        """A directory to fill with the best weights so far."""
        with files.new_directory(self.best, overwrite=True) as staging:
            yield staging


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
