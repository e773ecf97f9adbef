"""How many steps fit into `max_minutes`, when a training has to end to keep it, and whether that is worth it."""

import logging
import math
from collections import deque

from secateur.progress import duration
from secateur.recovery.checkpoints import TrainingProgress
from secateur.recovery.config import RecoverConfig

logger = logging.getLogger(__name__)

EVALUATIONS = 5
TIMED_STEPS = 3  # before it is said how many fit
LITTLE_TOKENS = 100_000  # trained on, below which little is won back
MOST_VALIDATION = 1 / 3  # of the time


class TimeLimit:
    """The minutes that a training may take, validation and checkpoints included, and where they go.

    All times are on the clock of `progress.seconds`, which is the same in all processes.

    Args:
        config: the command's settings.
        progress: how far the training is.
        evaluates: whether there is something to validate on.
    """

    def __init__(self, config: RecoverConfig, progress: TrainingProgress, evaluates: bool) -> None:
        self.config = config
        self.progress = progress
        self.evaluates = evaluates
        self.seconds = math.inf if config.max_minutes is None else 60 * config.max_minutes
        self.expected: int | None = None  # steps, once that is known
        self._steps: deque[float] = deque(maxlen=8)
        self._evaluation = 0.0
        self._count = 0
        self._warned = False

    def step_took(self, seconds: float) -> None:
        if self._count == 1:
            self._steps.clear()  # the first step takes longer than the others
        self._steps.append(seconds)
        self._count += 1

    def evaluation_took(self, seconds: float) -> None:
        self._evaluation = seconds

    @property
    def share_used(self) -> float:
        """The share that is used up of the time for steps: 1 where the last evaluation has to begin."""
        room = self.seconds - self._ending
        return self.progress.seconds / room if room > 0 else 1.0

    @property
    def is_over(self) -> bool:
        """Whether another step, and the last evaluation behind it, would end too late."""
        return self._left < self._step + self._ending

    @property
    def has_room_to_evaluate(self) -> bool:
        """Whether an evaluation that is not the last leaves time for a step and that."""
        return self._left >= self._evaluation + self._step + self._ending

    def estimate(self, step: int, total: int) -> None:
        """Say how many steps fit, once a few are timed; warn where that is too little to matter.

        Args:
            step: steps done.
            total: steps that the data gives.
        """
        if self.config.max_minutes is None or self.expected is not None or len(self._steps) < TIMED_STEPS:
            return
        every = self.config.eval_steps
        between = self._evaluation / every if every else 0.0
        apart = (0 if every else EVALUATIONS - 1) * self._evaluation + self._ending
        fitting = step + max(0, math.floor((self._left - apart) / (self._step + between)))
        self.expected = max(step, min(total, fitting))
        validation = f" and a validation {_seconds(self._evaluation)}" if self._evaluation else ""
        tokens = round(self.progress.tokens / step * self.expected)
        if fitting >= total:
            took = duration(total * (self._step + between) + apart)
            logger.info(
                "A step takes %s%s: all %d steps fit into --max-minutes %g, in about %s",
                *(_seconds(self._step), validation, total, self.config.max_minutes, took),
            )
            return
        logger.info(
            "A step takes %s%s: about %d of the %d steps fit into --max-minutes %g, %s tokens",
            *(_seconds(self._step), validation, self.expected, total, self.config.max_minutes, f"{tokens:,}"),
        )
        spent = apart + between * (self.expected - step)
        if spent > MOST_VALIDATION * self.seconds:
            logger.warning(
                "Validation will take %.0f %% of --max-minutes %g; lower --val-size or --extra-eval-windows, or raise "
                "--eval-steps",
                *(100 * min(1.0, spent / self.seconds), self.config.max_minutes),
            )
        self.warn_of_too_little(self.expected, tokens)

    def warn_of_too_little(self, steps: int, tokens: int) -> None:
        """Warn, once, where a training that the time ends is too short to win much back."""
        warmup = self.config.warmup_steps
        if self._warned:
            return
        if warmup is not None and steps < warmup:
            self._warned = True
            logger.warning(
                "--max-minutes %g ends the training after %d steps, within its --warmup-steps %d: the learning rate "
                "does not reach --lr; give more minutes or lower --warmup-steps",
                *(self.config.max_minutes, steps, warmup),
            )
        elif tokens < LITTLE_TOKENS:
            self._warned = True
            logger.warning(
                "--max-minutes %g is enough for %s tokens (%d steps); fewer than %s win little back: give more minutes",
                *(self.config.max_minutes, f"{tokens:,}", steps, f"{LITTLE_TOKENS:,}"),
            )

    @property
    def _left(self) -> float:
        return self.seconds - self.progress.seconds

    @property
    def _step(self) -> float:
        return sum(self._steps) / len(self._steps) if self._steps else 0.0

    @property
    def _ending(self) -> float:
        """How long the last evaluation takes."""
        return self._evaluation if self.evaluates else 0.0


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else duration(seconds)
