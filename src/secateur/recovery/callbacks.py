"""When a training logs, evaluates, saves and stops, and what the terminal shows meanwhile."""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secateur import console
from secateur.distributed import first_decides
from secateur.errors import InputError
from secateur.progress import Phase, phase
from secateur.recovery import checkpoints
from secateur.recovery.config import RecoverConfig
from secateur.recovery.timing import EVALUATIONS, TimeLimit

logger = logging.getLogger(__name__)

LOG_ENTRIES = 200
CHECKPOINT_SHARE = 0.05
CHECKPOINT_SECONDS = 20.0
# What the parts of the loss are called where people read them; all are in nats per token.
NAMES = {"cross_entropy": "cross entropy", "kl_divergence": "KL from the teacher"}


def require_callbacks(callbacks: Any) -> None:
    """Raise `InputError` where callbacks are no list of Transformers' `TrainerCallback`s."""
    if not isinstance(callbacks, list | tuple):
        raise InputError(f"callbacks= is a {type(callbacks).__name__}; give a list of transformers.TrainerCallback")
    for callback in callbacks:
        is_kind = isinstance(callback, type) and issubclass(callback, TrainerCallback)
        if not is_kind and not isinstance(callback, TrainerCallback):
            raise InputError(f"callbacks= holds a {type(callback).__name__}; give transformers.TrainerCallback objects")


class StepLosses:
    """What the loss of optimizer steps is made of, in nats per token: the last one's, and those' since the last log.

    Args:
        has_teacher: whether there is a divergence from a teacher beside the cross entropy.
    """

    def __init__(self, has_teacher: bool) -> None:
        self._names = list(NAMES) if has_teacher else ["cross_entropy"]
        self.latest: dict[str, float] = {}
        self._sums = [0.0, 0.0]
        self._steps = 0

    def add(self, cross_entropy: float, divergence: float) -> None:
        """Take note of a step."""
        self.latest = dict(zip(self._names, (cross_entropy, divergence), strict=False))
        self._sums = [self._sums[0] + cross_entropy, self._sums[1] + divergence]
        self._steps += 1

    def means(self) -> dict[str, float]:
        """The means over the steps since this was asked last; nothing where none was noted."""
        if not self._steps:
            return {}
        means = {name: total / self._steps for name, total in zip(self._names, self._sums, strict=False)}
        self._sums, self._steps = [0.0, 0.0], 0
        return means


class Rhythm(TrainerCallback):
    """Says after which steps to log, evaluate, write a checkpoint, and stop."""

    def __init__(self, config: RecoverConfig, progress: checkpoints.TrainingProgress, limit: TimeLimit) -> None:
        self.config = config
        self.progress = progress
        self.limit = limit
        self._saved = time.monotonic()
        self._saving_seconds = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        step, total = state.global_step, state.max_steps
        self.limit.estimate(step, total)
        if self.limit.is_over and step < total:
            logger.info("The time is up after %d of %d steps", step, total)
            self.limit.warn_of_too_little(step, self.progress.tokens)
            control.should_training_stop = True
        last = step >= total or control.should_training_stop
        expected = self.limit.expected or total
        control.should_log = last or step == 1 or step % max(1, expected // LOG_ENTRIES) == 0
        interval = self.config.eval_steps or max(1, math.ceil(expected / EVALUATIONS))
        due = step % interval == 0 and self.limit.has_room_to_evaluate
        control.should_evaluate = self.limit.evaluates and (last or due)
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


def learning_rate_factor(step: int, total: int, warmup: int, time_share: float = 0.0) -> float:
    """The share of the highest learning rate: up in a line, then down in half a cosine to zero.

    Args:
        step: steps done.
        total: steps of the whole training.
        warmup: steps of the way up.
        time_share: share of the time for steps that is used up; the way down is at least that far.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = max((step - warmup) / max(1, total - warmup), time_share)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Bar(TrainerCallback):
    """A bar with the last step's losses and the speed on standard error, and a line in the log for each tenth."""

    def __init__(self, bar: Progress, work: Phase, progress: checkpoints.TrainingProgress, losses: StepLosses) -> None:
        self.bar = bar
        self.work = work
        self.progress = progress
        self.losses = losses
        self._task: TaskID | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step, figures="")
        self.work.total, self.work.done, self.work.before = state.max_steps, state.global_step, state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert self._task is not None
        self.work.done, self.work.figures = state.global_step, self._figures(self.losses.latest)
        self.bar.update(self._task, completed=state.global_step, figures=self.work.figures)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        tenth = max(1, state.max_steps // 10)
        if "loss" in logs and (state.global_step % tenth == 0 or state.global_step == state.max_steps):
            logger.info("Step %d of %d: %s", state.global_step, state.max_steps, self._figures(logs))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        given = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        figures = [f"{NAMES.get(name, name)} {value:.3f}" for name, value in given.items()]
        logger.info("Step %d, validation: %s", state.global_step, ", ".join(figures))

    def _figures(self, losses: Mapping[str, float]) -> str:
        speed = self.progress.tokens / self.progress.training_seconds if self.progress.training_seconds else 0.0
        told = [f"{word} {losses[name]:.3f}" for name, word in NAMES.items() if name in losses]
        return ", ".join([*told, f"{speed:,.0f} tokens/s"])


@contextmanager
def training_bar(progress: checkpoints.TrainingProgress, losses: StepLosses) -> Iterator[Bar]:
    """Show a training's bar while the block runs; the log has a line a minute."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    shown = Progress(*columns, console=console.stderr, transient=True, disable=not console.shows_bars())
    with phase("training", said=False) as work, shown as bar:
        yield Bar(bar, work, progress, losses)
