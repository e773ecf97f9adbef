"""What is being done: its name in the log when it begins, and a line a minute with what is done and what is left."""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

logger = logging.getLogger(__name__)

LINE_SECONDS = 60.0

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(eq=False)
class Phase:
    """A part of the work that takes a while.

    Attributes:
        name: what is done.
        total: how many steps it has; None where nobody knows.
        done: how many of them are done.
        figures: what else is worth a word: a loss, a speed.
        before: steps that were done when it began, by a run that was stopped.
        started: when it began, on the clock of `time.monotonic`.
    """

    name: str
    total: int | None = None
    done: int = 0
    figures: str = ""
    before: int = 0
    started: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """`Scoring units: 12 of 30 done, 8 min so far, about 12 min left`."""
        elapsed = time.monotonic() - self.started
        parts = [f"{duration(elapsed)} so far"]
        if self.total is not None:
            parts.insert(0, f"{self.done:,} of {self.total:,} done")
            new = self.done - self.before
            if new > 0:
                parts.append(f"about {duration(elapsed / new * (self.total - self.done))} left")
        elif self.done:
            parts.insert(0, f"{self.done:,} done")
        return f"{self.name}: {', '.join([*parts, self.figures] if self.figures else parts)}"


class _Watch:
    """The phases that are going on, the inner ones last, and the thread that tells of them."""

    def __init__(self) -> None:
        self._phases: list[Phase] = []
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None

    def begin(self, phase: Phase) -> None:
        with self._lock:
            self._phases.append(phase)
            if self._stop is None and logger.isEnabledFor(logging.INFO):
                self._stop = threading.Event()
                threading.Thread(target=self._tell, args=(self._stop,), name="progress", daemon=True).start()

    def end(self, phase: Phase) -> None:
        with self._lock:
            self._phases.remove(phase)
            if not self._phases and self._stop is not None:
                self._stop.set()
                self._stop = None

    def _tell(self, stop: threading.Event) -> None:
        while not stop.wait(LINE_SECONDS):
            with self._lock:
                counted = [phase for phase in self._phases if phase.total is not None or phase.done]
                told = (counted or self._phases)[-1:]
            for phase in told:
                logger.info(phase.line(), extra={"every_minute": True})


_watch = _Watch()


@contextmanager
def phase(name: str, total: int | None = None, *, done: int = 0, said: bool = True) -> Iterator[Phase]:
    """Tell of a part of the work once a minute while the block runs.

    Args:
        name: what is done.
        total: how many steps it has, where that is known.
        done: how many of them are done already.
        said: whether the log says that it begins.

    Yields:
        The phase, whose `done` and `figures` the block keeps up to date.
    """
    begun = Phase(name, total, done, before=done)
    if said:
        logger.info("%s …", name)
    _watch.begin(begun)
    try:
        yield begun
    finally:
        _watch.end(begun)


def announced(verb: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Make each call of a function a phase, named by the verb and the call's first argument: `loading out/pruned`."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def told(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            name = f"{verb} {arguments[0]}" if arguments else verb
            with phase(name):
                return function(*arguments, **options)

        return told

    return decorate


def duration(seconds: float) -> str:
    """`40 s`, `8 min`, `1 h 12 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"
