"""`secateur sweep`: a recipe over values."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import command
from secateur.cli.options import Json, Overwrite
from secateur.cli.output import say, show
from secateur.console import stdout
from secateur.errors import SecateurError
from secateur.files import write_figures


@command()
def sweep(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file.")],
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUES",
            help="Values for a key of the recipe: prune.ratio=0.15,0.25. Several --set: all combinations. A list as "
            "a value stands in brackets: evaluate.data=[a.txt,b.txt],[c.txt].",
        ),
    ],
    command_line: str,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The sweep's directory. [default: runs/<name>-sweep]"),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Run a recipe once for each combination of values.

    Each cell is a run directory below the sweep's. What is done and unchanged is not done again, and a stopped sweep
    goes on where it stopped. A cell that fails does not stop the others; the exit status is 1 then. The results stand
    in comparison.md, comparison.json, comparison.html, comparison.png and sweep.png.

    secateur sweep examples/smollm2-prune.yaml --set prune.ratio=0.15,0.25
    """
    from secateur.report import comparison_table, task_table
    from secateur.runs.sweep import sweep_recipe

    result = sweep_recipe(recipe, settings, output, command_line=command_line, overwrite=overwrite)
    if result.comparison is not None:
        if json is not None:
            write_figures(json, result.comparison.to_dict())
        rows = result.comparison.rows
        show(comparison_table(rows))
        if any(row["tasks"] for row in rows):
            stdout.print()
            show(task_table(rows))
        for warning in result.comparison.warnings:
            say(f"Note: {warning}")
        say(str(result.page))
    if result.failed:
        listed = "; ".join(f"{cell}: {message}" for cell, message in result.failed.items())
        raise SecateurError(f"{len(result.failed)} of {result.cells} cells failed: {listed}")
