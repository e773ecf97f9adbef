"""`secateur longrange`: sparse attention learned while training on long sequences."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.command import command
from secateur.cli.group import Group
from secateur.cli.options import Json, Output, Overwrite
from secateur.cli.output import say, show
from secateur.files import expanded, write_figures

if TYPE_CHECKING:
    from secateur.longrange.data.config import PrepareConfig
    from secateur.longrange.options import EvaluateConfig, TrainConfig

Above = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="The directory above the run, as for train.")
]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="listops, pathfinder, image, text or retrieval.")]


@command("secateur.longrange.data.config:PrepareConfig")
def prepare(task: TaskName, config: "PrepareConfig", output: Output, overwrite: Overwrite = False) -> None:
    """Make or read the examples of a task.

    listops and pathfinder are generated; image, text and retrieval come from the hub or, with --from, from the
    published files. A prepare that was stopped goes on where it stopped.

    secateur longrange prepare listops -o out/data/listops
    """
    from secateur.longrange.data import prepare
    from secateur.report import prepared_table

    meta = prepare(task, expanded(output), config, overwrite=overwrite)
    show(prepared_table(meta.to_dict()))
    say(str(output))


@command(
    "secateur.longrange.options:TrainConfig",
    {
        "Options": ("task", "name", "data", "mode"),
        "Which run": ("config", "seed"),
        "The switch": ("pattern", "skewness", "distance", "check_every"),
    },
    together=True,
)
def train(
    config: "TrainConfig", output: Output, command_line: str, overwrite: Overwrite = False, json: Json = None
) -> None:
    """Train: dense at first, block-sparse once attention has settled.

    The run is NAME below the output directory. One that was stopped goes on where it stopped. With torchrun or
    accelerate launch -m secateur each process takes its share of every batch.

    secateur longrange train --task listops --name sat -o out
    """
    from secateur.longrange.run import train_run
    from secateur.report import longrange_table

    results = train_run(config, expanded(output), command_line=command_line, overwrite=overwrite)
    if results is None:
        return
    if json is not None:
        write_figures(json, results)
    show(longrange_table([results]))
    say(str(output / config.name))


@command("secateur.longrange.options:EvaluateConfig", {"Options": ("task", "name", "data", "split")})
def evaluate(config: "EvaluateConfig", output: Above, json: Json = None) -> None:
    """Accuracy of a run's best model.

    secateur longrange evaluate --task listops --name sat -o out
    """
    from secateur.longrange.evaluate import evaluate

    figures = evaluate(config, expanded(output))
    if json is not None:
        write_figures(json, figures)
    say(f"{config.name}: accuracy {figures['accuracy']:.2%} on {figures['examples']:,} examples of {config.split}")


longrange = Group(
    "longrange",
    "Learned sparse attention: prepare, train, evaluate.",
    {each.name: each for each in (prepare, train, evaluate)},
)
