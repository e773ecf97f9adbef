"""`secateur run`: a whole recipe."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import command
from secateur.cli.options import Json, Overwrite
from secateur.cli.output import say, show
from secateur.files import expanded, write_figures


@command(together=True)
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file.")],
    command_line: str,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The run's directory. [default: runs/<name>]"),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Run a recipe: measure, cut, recover, measure, report.

    What is done and unchanged is not done again, and a stopped run goes on where it stopped. --overwrite starts
    afresh.

    secateur run examples/smollm2-prune.yaml -o runs/first
    """
    from secateur.distributed import is_first, process_count
    from secateur.errors import InputError
    from secateur.files.result_files import REPORT
    from secateur.longrange.recipe import LongRangeRecipe, run_longrange
    from secateur.report import comparison_rows, comparison_table, longrange_table, memory_table, source_warnings
    from secateur.runs.figures import RunResults
    from secateur.runs.recipe import load_recipe
    from secateur.runs.stages import run_recipe

    loaded = load_recipe(recipe)
    directory = output or loaded.directory
    text = recipe.read_text(encoding="utf-8")
    if isinstance(loaded, LongRangeRecipe):
        if process_count() > 1:
            raise InputError("a recipe with a section longrange works in one process; start longrange train instead")
        metrics = run_longrange(loaded, text, directory, command_line=command_line, overwrite=overwrite)
        if json is not None:
            write_figures(json, metrics)
        show(longrange_table(metrics["runs"]))
        say(str(directory))
        return
    metrics = run_recipe(loaded, text, directory, command_line=command_line, overwrite=overwrite)
    if not is_first():
        return
    if json is not None:
        write_figures(json, metrics)
    rows = comparison_rows(metrics)
    show(comparison_table(rows))
    if any(row.get("size_bytes") for row in rows):
        show(memory_table(rows))
    results = RunResults(loaded, expanded(directory), expanded(directory))
    for line in results.said():
        say(line)
    for warning in source_warnings(metrics["texts"]):
        say(f"Note: {warning}")
    opens = results.where_it_opens()
    if opens:
        say(opens)
    say(str(directory / REPORT))
