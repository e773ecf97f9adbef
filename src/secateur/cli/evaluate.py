"""`secateur evaluate`: models side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.command import command
from secateur.cli.options import Json, Models
from secateur.console import stdout
from secateur.files import write_bytes, write_json

if TYPE_CHECKING:
    from secateur.evaluation import EvaluateConfig

PANELS = {
    "Perplexity": ("data", "perplexity", "seqlen", "stride", "windows", "batch_size"),
    "Tasks": ("tasks", "limit", "num_fewshot", "include_path"),
    "Speed": ("speed", "prompt_tokens", "new_tokens", "repeats", "max_seconds", "semi_structured", "seed"),
}


@command("secateur.evaluation:EvaluateConfig", PANELS)
def evaluate(
    models: Models,
    config: "EvaluateConfig",
    json: Json = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw the perplexities as a PNG.")
    ] = None,
) -> None:
    """Measure models side by side: perplexity, size, speed, memory.

    The first model is the baseline of the changes.
    """
    from secateur.evaluation import compare_models
    from secateur.report import comparison_table, memory_table, perplexity_plot

    evaluations = [evaluation.to_dict() for evaluation in compare_models(models, config)]
    stdout.print(comparison_table(evaluations))
    stdout.print()
    stdout.print(memory_table(evaluations))
    if json is not None:
        write_json(json, {"models": evaluations})
    if plot is not None:
        write_bytes(plot, perplexity_plot(evaluations))
