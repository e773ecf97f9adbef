"""`secateur report`: the HTML page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import command
from secateur.cli.output import say


@command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory.")]) -> None:
    """Write the HTML page of a run again.

    secateur report runs/first
    """
    from secateur.runs.pages import write_report

    say(str(write_report(run)))
