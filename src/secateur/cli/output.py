"""How commands print: lines as they are on standard output, one line per error on standard error."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from secateur.console import printable, stderr, stdout
from secateur.environment import launched_together
from secateur.errors import InputError

if TYPE_CHECKING:
    from secateur.report import TextTable


def say(text: str) -> None:
    """Print a line on standard output as it is: no markup, no line breaks added."""
    stdout.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def show(table: "TextTable") -> None:
    """Print a table on standard output, laid out for the terminal; nothing of it is cut."""
    stdout.print(table, soft_wrap=True)


def announce(command: str) -> None:
    """Say that a command has begun, where PyTorch, which takes seconds, is still to be imported."""
    alone = not launched_together() or os.environ["RANK"] == "0"
    if alone and "torch" not in sys.modules:
        stderr.print(f"{command}: loading …", markup=False, highlight=False, soft_wrap=True)


def complain(message: str, traceback: bool = False) -> None:
    """Print an error as one line on standard error, the traceback of the exception at hand above it if wanted.

    Of several processes the first that fails says so.
    """
    if launched_together():
        from secateur.distributed import is_first_to_fail

        if not is_first_to_fail():
            return
        stderr.quiet = False
    if traceback:
        stderr.print_exception()
    stderr.print(
        f"Error: {' '.join(printable(message).split(chr(10)))}",
        style="red",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def in_process_group(name: str, together: bool) -> Iterator[bool]:
    """Join the other processes of torchrun while a command runs; only the first of them prints.

    Args:
        name: of the command.
        together: whether it works in several processes.

    Yields:
        Whether this is the first process, the one that writes.

    Raises:
        InputError: there are several processes, and the command works in one.
    """
    if not launched_together():
        yield True
        return
    from secateur.distributed import is_first, several_processes

    with several_processes():
        stdout.quiet = stderr.quiet = not is_first()
        if not together:
            raise InputError(f"{name} works in one process; start it without torchrun or accelerate launch")
        yield is_first()
