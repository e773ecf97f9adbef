"""A command of secateur run inside this process, and what came of it."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

ERROR = "Error: "
LONGEST_LINE = 1000


class Accepted(BaseException):
    """Raised in place of the work that follows when a file has been read."""


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        status: its exit status.
        messages: the lines on standard error that begin as errors do.
        error: an exception that came through, and where; empty where there is none.
    """

    status: int
    messages: list[str]
    error: str = ""

    @property
    def verdict(self) -> str:
        """`accepted`, `refused` with one line of a reasonable length, `crash` for want of memory, or `unexpected`."""
        if "MemoryError" in self.error:
            return "crash"
        if self.error or any(message.removeprefix(ERROR).startswith("unexpected ") for message in self.messages):
            return "unexpected"
        if self.status == 0:
            return "accepted"
        told = len(self.messages) == 1 and len(self.messages[0]) <= LONGEST_LINE
        return "refused" if self.status in (1, 2) and told else "unexpected"


def run_command(words: Sequence[str]) -> Outcome:
    """Run `secateur` with these words, as its own entry does. Raises nothing that is an error of the command."""
    from secateur import console
    from secateur.cli import main

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["secateur", *words]
    os.environ["COLUMNS"] = "200"
    status, error = 0, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        # The consoles hold the streams that were there when they were made only if they were given them.
        console.stdout.file, console.stderr.file = out, err
        try:
            main.main()
        except Accepted:
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException as caught:  # noqa: BLE001 whatever comes through is what is looked for
            frames = traceback.extract_tb(caught.__traceback__)
            ours = [frame for frame in frames if "/secateur/" in frame.filename]
            places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in (*ours[-1:], *frames[-1:])]
            error = f"{type(caught).__name__}: {' '.join(str(caught).split())[:200]} ({' → '.join(places)})"
    return Outcome(status, [line for line in err.getvalue().splitlines() if line.startswith(ERROR)], error)
