"""The tasks of the Long Range Arena, and what preparing one can be told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from secateur.errors import OptionError
from secateur.files import expanded
from secateur.longrange.data import listops
from secateur.longrange.data.rows import BYTE_VOCABULARY, SPLITS, SplitName
from secateur.models.options import LARGEST_SEED
from secateur.wording import know_options

TaskName = Literal["listops", "pathfinder", "image", "text", "retrieval"]

SHARD_ROWS = 4096  # what is in memory at once
PICTURE = 32 * 32


@dataclass(frozen=True)
class Task:
    """What is fixed about a task.

    Attributes:
        title: what it is, for people.
        vocab_size: tokens, the padding (0) included.
        num_classes: classes.
        max_length: the longest sequence unless the user says otherwise.
        two_inputs: whether an example is a pair of sequences.
        counts: examples of a generated task; a task that is read has none.
    """

    title: str
    vocab_size: int
    num_classes: int
    max_length: int
    two_inputs: bool = False
    counts: Mapping[SplitName, int] = field(default_factory=dict)

    @property
    def generated(self) -> bool:
        """Whether its examples are made here, not read."""
        return bool(self.counts)


TASKS: dict[TaskName, Task] = {
    "listops": Task(
        "ListOps", len(listops.VOCABULARY), 10, 2000, counts={"train": 96_000, "dev": 2_000, "test": 2_000}
    ),
    "pathfinder": Task(
        "Pathfinder", BYTE_VOCABULARY, 2, PICTURE, counts={"train": 160_000, "dev": 20_000, "test": 20_000}
    ),
    "image": Task("CIFAR-10 in grey", BYTE_VOCABULARY, 10, PICTURE),
    "text": Task("IMDB by bytes", BYTE_VOCABULARY, 2, 4000),
    "retrieval": Task("AAN pairs by bytes", BYTE_VOCABULARY, 2, 4000, two_inputs=True),
}


@dataclass(frozen=True)
class TaskSettings:
    """A `PrepareConfig` with a task's own values filled in.

    Attributes:
        task: its name.
        max_length: most tokens in a sequence.
        seed: of everything random.
        counts: examples wanted per split, None for all there are.
        path_length: dashes in a path, for pathfinder alone.
        from_directory: where the data are read, None for the hub.
        shard_rows: examples in a file.
    """

    task: TaskName
    max_length: int
    seed: int
    counts: Mapping[SplitName, int | None]
    path_length: int | None
    from_directory: Path | None
    shard_rows: int

    def options(self, source: str) -> dict[str, Any]:
        """What decides the result, for the record.

        Args:
            source: the identity of the data that are read, or of the generator.
        """
        return {
            "task": self.task,
            "max_length": self.max_length,
            "seed": self.seed,
            "train": self.counts["train"],
            "dev": self.counts["dev"],
            "test": self.counts["test"],
            "path_length": self.path_length,
            "source": source,
            "shard_rows": self.shard_rows,
        }


class PrepareConfig(BaseModel):
    """Preparing the data of one task."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    from_directory: Path | None = Field(
        default=None,
        description="Read the data from this directory in a published format instead of the hub (--from): CIFAR-10 "
        "batches, aclImdb or CSV, AAN pairs as TSV.",
    )
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed of what is generated, split off or left out.")
    max_length: int | None = Field(
        default=None,
        ge=listops.SHORTEST,
        le=65_536,
        description="Most tokens in a sequence; unset: 2000 for listops, 4000 for text and retrieval.",
    )
    train: int | None = Field(default=None, ge=1, description="Training examples; unset: the task's own, or all.")
    dev: int | None = Field(
        default=None, ge=1, description="Examples to tune on; unset: the task's own, or 10 % split off from train."
    )
    test: int | None = Field(default=None, ge=1, description="Test examples; unset: the task's own, or all.")
    path_length: Literal[6, 9, 14] = Field(
        default=14, description="Dashes in a path of pathfinder; longer is more difficult."
    )

    @field_validator("path_length", mode="before")
    @classmethod
    def _number_of_text(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    def settings(self, task: str) -> TaskSettings:
        """Fill in what a task has of its own.

        Raises:
            OptionError: the task is unknown, ignores an option that was given, or cannot have that length.
        """
        if task not in TASKS:
            raise OptionError(f"there is no task {task!r}; it is one of {', '.join(get_args(TaskName))}")
        name: TaskName = task
        self._require_no_idle_option(name)
        own = TASKS[name]
        return TaskSettings(
            task=name,
            max_length=self.max_length or own.max_length,
            seed=self.seed,
            counts={split: getattr(self, split) or own.counts.get(split) for split in SPLITS},
            path_length=self.path_length if name == "pathfinder" else None,
            from_directory=expanded(self.from_directory) if self.from_directory else None,
            shard_rows=SHARD_ROWS,
        )

    def _require_no_idle_option(self, task: TaskName) -> None:
        own = TASKS[task]
        if own.generated and self.from_directory is not None:
            raise OptionError(f"{task} is generated and reads nothing; leave out --from")
        if task != "pathfinder" and "path_length" in self.model_fields_set:
            raise OptionError(f"{task} has no paths; leave out --path-length, which is for pathfinder")
        if own.max_length == PICTURE and self.max_length not in (None, PICTURE):
            raise OptionError(f"a picture of {task} is always {PICTURE:,} tokens long; leave out --max-length")
        if task == "listops" and self.max_length and self.max_length > listops.LONGEST:
            raise OptionError(f"listops cannot be longer than {listops.LONGEST:,} tokens; lower --max-length")


know_options(PrepareConfig)
