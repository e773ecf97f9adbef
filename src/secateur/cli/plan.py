"""`secateur plan`: memory and time on paper."""

from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.command import command
from secateur.cli.options import Json
from secateur.cli.output import say, show
from secateur.console import stdout
from secateur.files import write_figures

if TYPE_CHECKING:
    from secateur.planning import PlanConfig

PANELS = {
    "Options": ("devices", "fit", "ratio"),
    "A target": (
        *("target_memory", "target_latency", "target_throughput", "context", "batch", "bits"),
        *("target_device", "engine"),
    ),
    "Devices": ("memory_gb", "tflops", "devices_per_machine", "dtype"),
    "What is to be done": ("windows", "seqlen", "own_text", "batch_size", "evaluate_windows"),
    "Recovery": (
        "recover_samples",
        "recover_epochs",
        "recover_batch_size",
        "micro_batch_size",
        "lora_r",
        "gradient_checkpointing",
    ),
}


@command("secateur.planning:PlanConfig", PANELS)
def plan(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A hub id, a directory with a config.json, that file, or smollm2-135m."),
    ],
    config: "PlanConfig",
    json: Json = None,
) -> None:
    """Memory and time of every phase, from config.json alone.

    No weights are read or fetched. FLOPs and bytes are counted; the share of a device's rates that is reached is
    measured in part on a CPU and assumed on GPUs. The column "options" says what a command needs to be given there.

    With --fit or a target it says which cut is enough, at which bits, and what that is expected to cost where cuts of
    the model were priced before (by prune or search); without --devices only that.

    secateur plan out/model --devices rtx4090
    """
    from secateur.planning import estimate
    from secateur.report import cuts_table, plan_summary, plan_table

    result = estimate(model, config)
    found = result.to_dict()
    say(plan_summary(found))
    if result.phases:
        stdout.print()
        show(plan_table(found))
    if result.cuts:
        stdout.print()
        show(cuts_table(found))
    lines = [*(f"you can: {cut.command}" for cut in result.cuts if cut.command), *found["advice"]]
    if lines:
        stdout.print()
    for line in lines:
        say(line)
    if json is not None:
        write_figures(json, found)
