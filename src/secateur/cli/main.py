"""The command line's entry: the list of commands, `--version`, and the exit status.

0: done. 1: the work failed, one line says why. 2: the command line is wrong. 130: interrupted.
"""

import importlib.metadata
import os
import signal
import sys
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.main import get_command

from secateur.cli.attention import attention
from secateur.cli.chat import chat
from secateur.cli.command import INTERRUPTED, Command
from secateur.cli.compare import compare
from secateur.cli.diagnose import diagnose
from secateur.cli.evaluate import evaluate
from secateur.cli.export import export
from secateur.cli.group import Group, LazyGroup, listing
from secateur.cli.longrange import longrange
from secateur.cli.measure_widths import measure_widths
from secateur.cli.merge import merge
from secateur.cli.output import complain, say
from secateur.cli.plan import plan
from secateur.cli.prune import prune
from secateur.cli.push import push
from secateur.cli.quantize import quantize
from secateur.cli.recover import recover
from secateur.cli.report import report
from secateur.cli.run import run
from secateur.cli.search import search
from secateur.cli.sparsify import sparsify
from secateur.cli.sweep import sweep

COMMANDS: dict[str, Command | Group] = {
    command.name: command
    for command in (
        *(run, sweep, prune, search, sparsify, quantize, attention, longrange, recover, merge),
        *(evaluate, compare, diagnose, plan, measure_widths, export, report, chat, push),
    )
}


class CommandGroup(LazyGroup):
    """All commands, and the exit status."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            status = super().main(*arguments, **{**options, "standalone_mode": False})
            if status == INTERRUPTED:  # by a command, or by Typer where it comes before its work
                complain("interrupted")
        except typer.TyperException as error:
            complain(error.format_message())
            status = error.exit_code
        sys.exit(status or 0)


app = listing(COMMANDS, CommandGroup, [each.example for each in (prune, recover, evaluate)])


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"secateur {importlib.metadata.version('secateur')}")
        raise typer.Exit


@app.callback()
def secateur(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Make transformer language models smaller and faster, and win back the quality that costs.

    load → measure → cut → recover → measure → ship: a command that changes a model reads a directory (or a hub id, a
    .gguf file, smollm2-135m) and writes one, so that each step can be run alone. `secateur COMMAND --help` lists its
    options.
    """


def _unexpected(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if "--debug" in sys.argv:
        sys.__excepthook__(kind, error, traceback)
    else:
        reason = " ".join(str(error).split()) or "no message"
        complain(f"unexpected {kind.__name__}: {reason} (--debug shows where)")


def main() -> None:
    """Run the command line and exit with its status."""
    # Before PyTorch is imported: what its C++ parts warn of is nothing that a user can act on.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    sys.excepthook = _unexpected
    interruptions: list[int] = []

    def interrupt(number: int, _: object) -> None:
        interruptions.append(number)
        raise KeyboardInterrupt  # so that what is half written is removed

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        get_command(app).main(prog_name="secateur")
    except (KeyboardInterrupt, Exception):
        # Libraries that are being imported make another error of an interruption.
        if not interruptions:
            raise
        complain("interrupted")
        sys.exit(INTERRUPTED)
