"""`secateur compare`: results that were measured earlier, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import command
from secateur.cli.options import Json, Output
from secateur.cli.output import say, show
from secateur.console import stdout
from secateur.files import write_figures

Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace the files of an earlier comparison in the output directory. Everything else there stays.",
    ),
]


@command()
def compare(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT",
            help="--json files of evaluate or run, run directories, sweeps.",
        ),
    ],
    output: Output,
    command_line: str,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Put results into one table, one page and one plot.

    Writes comparison.md, comparison.json, comparison.html and comparison.png: parameters against perplexity and
    accuracy, with a sweep sweep.png as well. What was not measured alike stands in columns of its own. Changes are
    against the uncut model of the same family.

    secateur compare runs/first runs/second -o out/compared
    """
    from secateur.comparison.comparison import compare_results, require_place, write_comparison
    from secateur.report import comparison_table, task_table

    directory = require_place(output, overwrite, results)
    comparison = compare_results(results)
    page = write_comparison(comparison, directory, title="Comparison", command_line=command_line)
    if json is not None:
        write_figures(json, comparison.to_dict())
    show(comparison_table(comparison.rows))
    if any(row["tasks"] for row in comparison.rows):
        stdout.print()
        show(task_table(comparison.rows))
    for warning in comparison.warnings:
        say(f"Note: {warning}")
    say(str(page))
