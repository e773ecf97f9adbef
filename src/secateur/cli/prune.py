"""`secateur prune`: remove GQA groups and MLP channels."""

from typing import TYPE_CHECKING

from secateur.cli.command import command
from secateur.cli.options import Json, Model, Output, Overwrite
from secateur.cli.output import say
from secateur.console import counted
from secateur.files import expanded, write_figures

if TYPE_CHECKING:
    from secateur.pruning import PruneConfig

PANELS = {
    "Options": ("ratio", "target_memory", "target_latency", "target_throughput", "data"),
    "For a target": ("context", "batch", "bits", "target_device", "engine"),
    "What is cut": ("plan", "target", "layers", "freeze", "min_rate", "max_rate", "attention_share", "even"),
    "What cut layers keep": ("channel_multiple", "tensor_parallel"),
    "Bits of what is left": ("quantize", "group"),
    "How the cut is spread": (
        "allocation",
        "alpha",
        "layer_importance",
        "layer_importance_windows",
        "layer_importance_file",
    ),
    "Which units leave, and the re-fit": ("importance", "compensate", "damping"),
    "Calibration text": ("windows", "own_text", "seqlen", "batch_size", "seed"),
}


@command("secateur.pruning:PruneConfig", PANELS, together=True)
def prune(
    model: Model,
    config: "PruneConfig",
    output: Output,
    command_line: str,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Remove the GQA groups and MLP channels that matter least.

    The output is a Hugging Face model directory; one whose layers differ loads after `import secateur`, or without it
    with trust_remote_code=True. Beside the weights stand pruning_plan.json, what each layer loses and keeps;
    pruning_strategy.png, the same drawn; layer_importance.json where layers were scored; command.txt and run.log.

    secateur prune smollm2-135m -o out/pruned --ratio 0.2 --data 'notes.txt[:80%]'
    """
    from secateur.distributed import is_first
    from secateur.runs.steps import prune_model, where_it_opens

    result = prune_model(model, output, config, command_line=command_line, overwrite=overwrite)
    plan = result.plan
    if json is not None:
        write_figures(
            json,
            {
                "parameters_before": plan.parameters_before,
                "parameters_after": plan.parameters_after,
                "ratio": plan.ratio,
                "reached": plan.reached,
                "target": plan.to_dict()["target"],
                "seconds": result.seconds,
                "peak_memory_bytes": result.peak_memory_bytes,
            },
        )
    asked = "" if plan.target else f", {plan.ratio:.1%} asked"
    say(f"{plan.parameters_before:,} parameters became {plan.parameters_after:,}: {plan.reached:.1%} removed{asked}")
    if plan.target:
        say(plan.target.said())
    if config.quantize is not None:
        say(f"The weights left are rounded to {config.quantize} bits")
    windows = counted(plan.calibration_windows, "window")
    say(f"Calibrated on {windows} of {plan.calibration}; {sum(result.seconds.values()):.1f} s")
    if is_first():
        say(where_it_opens(expanded(output)))
    say(str(output))
