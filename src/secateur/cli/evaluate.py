"""`secateur evaluate`: models side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.command import command
from secateur.cli.options import Json, Models, UsageError
from secateur.cli.output import show
from secateur.console import stdout
from secateur.files import write_bytes, write_figures

if TYPE_CHECKING:
    from secateur.evaluation import EvaluateConfig

PANELS = {
    "Options": ("data", "tasks", "adapter"),
    "Perplexity": ("perplexity", "seqlen", "stride", "windows", "batch_size"),
    "Tasks": ("limit", "num_fewshot", "include_path"),
    "Speed": ("speed", "prompt_tokens", "new_tokens", "repeats", "max_seconds", "semi_structured", "seed"),
}


@command("secateur.evaluation:EvaluateConfig", PANELS, together=True)
def evaluate(
    models: Models,
    config: "EvaluateConfig",
    json: Json = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw the perplexities as a PNG.")
    ] = None,
) -> None:
    """Measure models side by side.

    The first model is the baseline of the changes, but for models of another family. --tasks asks questions with
    known answers, zero-shot unless --num-fewshot says otherwise; with --no-perplexity --no-speed nothing else is
    measured. A task of one's own in --include-path may only run code with --trust-remote-code.

    secateur evaluate smollm2-135m out/pruned out/recovered --data 'notes.txt[80%:]'
    """
    if plot is not None and not config.perplexity:
        raise UsageError("--plot draws perplexities; leave out --no-perplexity")
    from secateur.evaluation import compare_models
    from secateur.report import comparison_table, memory_table, perplexity_plot, task_table

    evaluations = [evaluation.to_dict() for evaluation in compare_models(models, config)]
    show(comparison_table(evaluations, baseline=0))
    stdout.print()
    show(memory_table(evaluations, baseline=0))
    if config.tasks:
        stdout.print()
        show(task_table(evaluations, baseline=0))
    if json is not None:
        write_figures(json, {"models": evaluations})
    if plot is not None:
        write_bytes(plot, perplexity_plot(evaluations))
