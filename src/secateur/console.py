"""What the terminal shows: progress on standard error, tables on standard output, a log; how options are spelt."""

import logging
import operator
import shlex
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from secateur.errors import OutputError
from secateur.files import reported
from secateur.progress import phase
from secateur.wording import RENAMED

Item = TypeVar("Item")

stdout = Console(emoji=False)
stderr = Console(stderr=True, emoji=False)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Generator[Item]:
    """Yield `items` under a progress bar on standard error that disappears when it is done.

    The log has a line a minute with what is done and what is left; so has standard error where it is no terminal.
    """
    total = total if total is not None else operator.length_hint(items) or None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        phase(description, total, said=False) as work,
        Progress(*columns, console=stderr, transient=True, disable=not shows_bars()) as progress,
    ):
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            work.done += 1
            progress.update(task, completed=work.done)


def shows_bars() -> bool:
    """Whether progress is shown as a bar: on a terminal, unless the user wants it quiet."""
    return stderr.is_terminal and not is_quiet()


def configure_logging(verbose: bool = False, quiet: bool = False) -> None:
    """Send secateur's own log to standard error; only warnings of other libraries are shown."""
    logger = logging.getLogger("secateur")
    logger.setLevel(logging.DEBUG)
    handler = _Lines()
    handler.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    handler.addFilter(_unless_a_bar_says_it)
    logger.handlers = [handler]
    logger.propagate = False


def _unless_a_bar_says_it(record: logging.LogRecord) -> bool:
    return not (getattr(record, "every_minute", False) and stderr.is_terminal)


def is_verbose() -> bool:
    """Whether the detailed log is shown."""
    return any(level <= logging.DEBUG for level in _shown_levels())


def is_quiet() -> bool:
    """Whether only warnings are shown beside the results."""
    return any(level > logging.INFO for level in _shown_levels())


def _shown_levels() -> list[int]:
    handlers = logging.getLogger("secateur").handlers
    return [handler.level for handler in handlers if isinstance(handler, _Lines)]


class _Lines(logging.Handler):
    """A line on standard error for each record, above a bar where one is shown, and never broken in two."""

    def emit(self, record: logging.LogRecord) -> None:
        stderr.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class _LogFile(logging.FileHandler):
    """A log whose disk may be full: that is an error of the work, not a traceback beside it."""

    def handleError(self, record: logging.LogRecord) -> None:
        with reported(Path(self.baseFilename)):
            raise


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append secateur's log to the file `path`, with times, while the block runs.

    Raises:
        OutputError: it cannot be written, or is a link.
    """
    if path.is_symlink():
        raise OutputError(f"{path} is a link, and so is not written to; remove it")
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("secateur")
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with reported(path):
            handler.close()


def counted(number: int, noun: str) -> str:
    """`1 window`, `5 windows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def flag(field: str) -> str:
    """The option of a field: `max_rate` is `--max-rate`."""
    return "--" + RENAMED.get(field, field).replace("_", "-")


def command_text(*words: str, config: BaseModel | None = None) -> str:
    """A command that can be pasted into a shell.

    Args:
        words: the command and its arguments.
        config: its options; those that have their default value are left out.
    """
    return shlex.join([*words, *(_options(config) if config else [])])


def _options(config: BaseModel) -> list[str]:
    options: list[str] = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if value is None or value == field.get_default(call_default_factory=True):
            continue
        options += _option(name, value)
    return options


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else f"--no-{flag(name)[2:]}"]
    values = value if isinstance(value, list | tuple) else [value]
    return [flag(name), ",".join(str(item).removesuffix(".0") for item in values)]


def printable(text: str) -> str:
    """A text without what would steer the terminal: of a model, a file, or somebody's file name."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in text)
