"""A limit for Python code that came with a file and may not end."""

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

BETWEEN_LOOKS = 0.25  # seconds; also after which code that has caught what ends it is ended again


class _OutOfTime(BaseException):
    """Raised inside of the code; no `except Exception` of its own holds it up."""


class _Watch:
    """One thread for all limits: a limit of its own would take longer to start than a template to render."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: dict[int, float] = {}  # by the thread that is watched
        self._thread: threading.Thread | None = None

    def begin(self, seconds: float) -> None:
        """Watch this thread."""
        with self._changed:
            self._deadlines[threading.get_ident()] = time.monotonic() + seconds
            if self._thread is None or not self._thread.is_alive():  # as after a fork
                self._thread = threading.Thread(target=self._look, name="time limit", daemon=True)
                self._thread.start()
            self._changed.notify()

    def end(self) -> None:
        """Watch this thread no more, and take back what is on its way to it."""
        with self._changed:
            self._deadlines.pop(threading.get_ident(), None)
            _raise_in(threading.get_ident(), None)

    def _look(self) -> None:
        with self._changed:
            while True:
                if not self._deadlines:
                    self._changed.wait()
                now = time.monotonic()
                for thread, deadline in self._deadlines.items():
                    if now > deadline:
                        _raise_in(thread, _OutOfTime)
                self._changed.wait(BETWEEN_LOOKS)


_watch = _Watch()


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """End what the block does in Python once it has taken too long, in whatever thread it runs.

    Args:
        seconds: of a clock. The code is ended between two instructions of Python, not within one.
        what: what takes so long, for the message.

    Raises:
        TimeoutError: the block has taken more than `seconds`.
    """
    try:
        try:
            _watch.begin(seconds)
            yield
        finally:
            _watch.end()
    except _OutOfTime:
        _watch.end()  # it may have come just before the first
        raise TimeoutError(f"{what} takes more than {seconds:g} seconds") from None


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """Have a thread raise an exception at its next instruction; None takes back one that is not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if exception is None else ctypes.py_object(exception)
    )
