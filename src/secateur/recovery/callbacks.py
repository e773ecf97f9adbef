"""When a training logs, evaluates, saves and stops, and what the terminal shows meanwhile."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secateur import console
from secateur.distributed import first_decides
from secateur.recovery import checkpoints
from secateur.recovery.config import RecoverConfig

logger = logging.getLogger(__name__)

LOG_ENTRIES = 200
EVALUATIONS = 5
CHECKPOINT_SHARE = 0.05
CHECKPOINT_SECONDS = 20.0


class Rhythm(TrainerCallback):
    """Says after which steps to log, evaluate, write a checkpoint, and stop."""

    def __init__(self, config: RecoverConfig, progress: checkpoints.TrainingProgress, evaluates: bool) -> None:
        self.config = config
        self.progress = progress
        self.evaluates = evaluates
        self._saved = time.monotonic()
        self._saving_seconds = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        step, total = state.global_step, state.max_steps
        if out_of_time(self.config, self.progress):
            logger.info("The time is up after %d of %d steps", step, total)
            control.should_training_stop = True
        last = step >= total or control.should_training_stop
        control.should_log = last or step == 1 or step % max(1, total // LOG_ENTRIES) == 0
        interval = self.config.eval_steps or max(1, math.ceil(total / EVALUATIONS))
        control.should_evaluate = self.evaluates and (last or step % interval == 0)
        control.should_save = first_decides(not last and self._save_is_due(step))
        return control

    def _save_is_due(self, step: int) -> bool:
        if self.config.checkpoint_steps is not None:
            return step % self.config.checkpoint_steps == 0
        rest = max(CHECKPOINT_SECONDS, self._saving_seconds / CHECKPOINT_SHARE)
        return time.monotonic() - self._saved >= rest

    def saved(self, seconds: float) -> None:
        """Take note that a checkpoint was written, and how long that took."""
        self._saved = time.monotonic()
        self._saving_seconds = seconds


def out_of_time(config: RecoverConfig, progress: checkpoints.TrainingProgress) -> bool:
    return config.max_minutes is not None and progress.seconds >= 60 * config.max_minutes


def learning_rate_factor(step: int, total: int, warmup: int, time_share: float = 0.0) -> float:
    """The share of the highest learning rate: up in a line, then down in half a cosine to zero.

    Args:
        step: steps done.
        total: steps of the whole training.
        warmup: steps of the way up.
        time_share: share of the time that is used up; the way down is at least that far.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = max((step - warmup) / max(1, total - warmup), time_share)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Bar(TrainerCallback):
    """A progress bar with loss and speed on standard error, and a line in the log for each tenth of the training."""

    def __init__(self, bar: Progress, progress: checkpoints.TrainingProgress) -> None:
        self.bar = bar
        self.progress = progress
        self._task: TaskID | None = None
        self._loss = math.nan

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step, figures="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert self._task is not None
        self.bar.update(self._task, completed=state.global_step, figures=self._figures())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._loss = (logs or {}).get("loss", self._loss)
        tenth = max(1, state.max_steps // 10)
        if "loss" in (logs or {}) and (state.global_step % tenth == 0 or state.global_step == state.max_steps):
            logger.info("Step %d of %d: %s", state.global_step, state.max_steps, self._figures())

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        figures = [f"{name.removeprefix('eval_')} {value:.3f}" for name, value in (metrics or {}).items()]
        logger.info("Step %d, evaluation: %s", state.global_step, ", ".join(figures))

    def _figures(self) -> str:
        speed = self.progress.tokens / self.progress.training_seconds if self.progress.training_seconds else 0.0
        return f"loss {self._loss:.3f}, {speed:,.0f} tokens/s"


@contextmanager
def training_bar(progress: checkpoints.TrainingProgress) -> Iterator[Bar]:
    """Show a training's bar while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console.stderr, transient=True) as bar:
        yield Bar(bar, progress)
