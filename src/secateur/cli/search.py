"""`secateur search`: find the plan of a cut."""

from typing import TYPE_CHECKING

from secateur.cli.command import command
from secateur.cli.options import Json, Model, Output, Overwrite
from secateur.cli.output import say, show
from secateur.console import counted
from secateur.files import write_figures

if TYPE_CHECKING:
    from secateur.pruning.search import SearchConfig

PANELS = {
    "Options": ("ratio", "target_memory", "target_latency", "target_throughput", "data"),
    "For a target": ("context", "batch", "bits", "target_device", "engine"),
    "What is cut": ("target", "layers", "freeze", "min_rate", "max_rate"),
    "What cut layers keep": ("channel_multiple", "tensor_parallel"),
    "The search": ("rounds", "measured_windows", "patience", "damping"),
    "Calibration text": ("windows", "own_text", "seqlen", "batch_size", "seed"),
}


@command("secateur.pruning.search:SearchConfig", PANELS, together=True)
def search(
    model: Model,
    config: "SearchConfig",
    output: Output,
    command_line: str,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Find how a cut is best spread over halves and layers.

    The output is pruning_plan.json, which `secateur prune MODEL --plan FILE` cuts by, with the rounds of the search in
    search.json and search.png. A search that was stopped goes on after its last round when it is started again.

    secateur search smollm2-135m -o out/search --ratio 0.2 --data 'notes.txt[:80%]'
    """
    from secateur.report import search_table
    from secateur.runs.searching import search_model

    result = search_model(model, output, config, command_line=command_line, overwrite=overwrite)
    if json is not None:
        write_figures(json, result.to_dict())
    show(search_table(result.to_dict()))
    plan = result.plan
    asked = plan.target.said() if plan.target else f"{plan.ratio:.1%} asked"
    say(f"{plan.reached:.1%} of all parameters to go, {asked}")
    windows = counted(result.plan.calibration_windows, "window")
    say(f"Calibrated on {windows} of {result.plan.calibration}; {sum(result.seconds.values()):.0f} s")
