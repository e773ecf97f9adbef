"""`secateur sparsify`: set single weights to zero."""

from typing import TYPE_CHECKING

from secateur.cli.command import command
from secateur.cli.options import Json, Model, Output, Overwrite
from secateur.cli.output import say
from secateur.console import counted
from secateur.files import write_figures

if TYPE_CHECKING:
    from secateur.sparsity import SparsifyConfig

PANELS = {
    "Options": ("sparsity", "pattern", "method", "data"),
    "What is cut": ("layers", "skip"),
    "Which weights leave, and the re-fit": ("damping",),
    "Bits of what is left": ("quantize", "group"),
    "How the zeros are spread": ("allocation", "fisher_range", "owl_range", "owl_outlier"),
    "Calibration text": ("windows", "own_text", "seqlen", "batch_size", "seed"),
    "Memory": ("offload", "layer_by_layer"),
}


@command("secateur.sparsity:SparsifyConfig", PANELS, together=True)
def sparsify(
    model: Model,
    config: "SparsifyConfig",
    output: Output,
    command_line: str,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Set the weights that matter least to zero.

    The output is a Hugging Face model directory of the same shapes. Beside the weights stand sparsity.json, each
    matrix's share of zeros and its pattern; sparsity.png, the same as a heat map; command.txt and run.log.

    secateur sparsify smollm2-135m -o out/sparse --sparsity 0.5 --data 'notes.txt[:80%]'
    """
    from secateur.runs.steps import sparsify_model

    result = sparsify_model(model, output, config, command_line=command_line, overwrite=overwrite)
    if json is not None:
        figures = {"zeros": result.zeros, "asked": result.asked, "reached": result.reached}
        write_figures(json, {**figures, "seconds": result.seconds, "peak_memory_bytes": result.peak_memory_bytes})
    say(
        f"{result.zeros:,} weights are zero: {result.reached:.2%} of those in {len(result.matrices):,} matrices, "
        f"{result.asked:.2%} asked"
    )
    if config.quantize is not None:
        say(f"The weights left are rounded to {config.quantize} bits")
    windows = counted(result.calibration_windows, "window")
    fitted = f"Calibrated on {windows} of {result.calibration}; " if result.calibration else ""
    seconds = sum(result.seconds.values())
    say(f"{fitted}{seconds:.1f} s, peak memory {result.peak_memory_bytes / 1e9:.2f} GB")
    say(str(output))
