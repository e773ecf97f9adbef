"""A recipe for learned sparse attention: prepare a task, train in several modes, compare."""

import json
import logging
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from secateur.console import logging_to
from secateur.errors import InputError
from secateur.files import clear_own, expanded, working_directory, write_json, write_text
from secateur.files.result_files import COMMAND, LOG, LONGRANGE, METRICS, RECIPE
from secateur.longrange.config import LongRangeConfig
from secateur.longrange.data import prepare
from secateur.longrange.data.config import PrepareConfig
from secateur.longrange.options import Mode, Task, TrainConfig
from secateur.longrange.run import train_run

logger = logging.getLogger(__name__)


class LongRangeSection(BaseModel):
    """What is trained on what."""

    model_config = ConfigDict(extra="forbid")

    task: Task = Field(description="Task of the Long Range Arena.")
    prepare: PrepareConfig = Field(default_factory=PrepareConfig, description="Options of secateur longrange prepare.")
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Over the task's own YAML: dataset, model and training."
    )
    train: dict[str, Any] = Field(default_factory=dict, description="Options of secateur longrange train.")
    modes: list[Mode] = Field(default=["auto", "dense"], min_length=1, description="A training in each of these modes.")

    @model_validator(mode="after")
    def _is_a_training(self) -> Self:
        given = sorted({"task", "name", "mode"} & set(self.train))
        if given:
            raise ValueError(f"train.{given[0]} does not stand there: the task stands above, and modes name the runs")
        try:
            longest, room = self.prepare.settings(self.task).max_length, self.settled.model.max_seq_len
            if longest > room:
                raise ValueError(
                    f"prepare.max_length is {longest} and options.model.max_seq_len {room}: it is too short"
                )
            for mode in self.modes:
                self.config(mode).settled(self.settled)
        except InputError as error:
            raise ValueError(str(error)) from error
        if len(set(self.modes)) < len(self.modes):
            raise ValueError("a mode is named twice")
        return self

    @property
    def settled(self) -> LongRangeConfig:
        """The task's own configuration with `options` over it."""
        return LongRangeConfig.of_task(self.task).overlaid(self.options, "options")

    def config(self, mode: Mode) -> TrainConfig:
        """The training in one mode."""
        return TrainConfig(task=self.task, name=mode, mode=mode, **self.train)


class LongRangeRecipe(BaseModel):
    """A run of learned sparse attention."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        default="longrange", pattern=r"^\w[\w.-]*$", description="Name of the run and of its directory below runs/."
    )
    output: str | None = Field(default=None, description="The run's directory; default: runs/<name>.")
    longrange: LongRangeSection = Field(description="What is trained on what.")

    @property
    def directory(self) -> Path:
        """Where the run goes unless the command line says otherwise."""
        return Path(self.output) if self.output else Path("runs") / self.name


def run_longrange(
    recipe: LongRangeRecipe, text: str, directory: str | Path, *, command_line: str, overwrite: bool = False
) -> dict[str, Any]:
    """Prepare the data and train in every mode. What is done is not done again, and what was stopped goes on.

    Args:
        recipe: what to do.
        text: the recipe as its author wrote it.
        directory: of the run, new or of an earlier try.
        command_line: the command that repeats it.
        overwrite: start afresh.

    Returns:
        The content of `metrics.json`: `runs`, the results of each mode.

    Raises:
        OutputError: the directory holds something that is not such a run, or one with other settings.
        SecateurError: what preparing and training raise. What is done stays done.
    """
    section = recipe.longrange
    home = expanded(directory)
    own = (LONGRANGE, RECIPE, METRICS, COMMAND, LOG, "data/*/", *(f"{mode}/" for mode in get_args(Mode)))
    with working_directory(home, own, "a run of longrange", overwrite=overwrite) as path:
        state = {"task": section.task, "section": section.model_dump(mode="json")}
        if overwrite and _differs(path / LONGRANGE, state):
            clear_own(path)
        write_json(path / LONGRANGE, state)
        with logging_to(path / LOG):
            prepare(section.task, path / "data" / section.task, section.prepare)
            results = []
            for number, mode in enumerate(section.modes, start=1):
                logger.info("Training in mode %s (%d of %d)", mode, number, len(section.modes))
                config, settled = section.config(mode), section.settled
                results.append(train_run(config, path, command_line=command_line, settled=settled))
        metrics = {"name": recipe.name, "task": section.task, "runs": results}
        write_text(path / RECIPE, text)
        write_text(path / COMMAND, command_line + "\n")
        write_json(path / METRICS, metrics)
    return metrics


def _differs(file: Path, state: dict[str, Any]) -> bool:
    """Whether a run was begun there with other settings, or its file says nothing any more."""
    try:
        return file.is_file() and json.loads(file.read_text(encoding="utf-8")) != state
    except ValueError:
        return True
