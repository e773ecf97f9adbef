"""`secateur quantize`: round weights to 4 or 8 bits."""

from typing import TYPE_CHECKING

from secateur.cli.command import command
from secateur.cli.options import Json, Model, Output, Overwrite
from secateur.cli.output import say
from secateur.console import counted
from secateur.files import expanded, write_figures

if TYPE_CHECKING:
    from secateur.quantization import QuantizeConfig

PANELS = {
    "Options": ("bits", "group", "data"),
    "What is rounded": ("layers", "quantize_head"),
    "The re-fit": ("damping",),
    "Calibration text": ("windows", "own_text", "seqlen", "batch_size", "seed"),
    "Memory": ("offload",),
}


@command("secateur.quantization:QuantizeConfig", PANELS, together=True)
def quantize(
    model: Model,
    config: "QuantizeConfig",
    output: Output,
    command_line: str,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Round the weights to 4 or 8 bits.

    The output is a Hugging Face model directory in compressed-tensors' format pack-quantized, which Transformers and
    vLLM load. Beside the weights stand quantization.json, each matrix's bits and group; command.txt and run.log.

    secateur quantize smollm2-135m -o out/4-bit --bits 4 --data 'notes.txt[:80%]'
    """
    from secateur.distributed import is_first
    from secateur.runs.steps import quantize_model, where_it_opens

    result = quantize_model(model, output, config, command_line=command_line, overwrite=overwrite)
    if json is not None:
        figures = {"bytes_before": result.bytes_before, "bytes_after": result.bytes_after}
        write_figures(json, {**figures, "seconds": result.seconds, "peak_memory_bytes": result.peak_memory_bytes})
    say(
        f"{len(result.matrices):,} matrices are rounded to {config.bits} bits: {result.bytes_before / 1e6:,.1f} MB of "
        f"weights became {result.bytes_after / 1e6:,.1f} MB"
    )
    seconds = sum(result.seconds.values())
    say(
        f"Calibrated on {counted(result.calibration_windows, 'window')} of {result.calibration}; {seconds:.1f} s, peak "
        f"memory {result.peak_memory_bytes / 1e9:.2f} GB"
    )
    if is_first():
        say(where_it_opens(expanded(output)))
    say(str(output))
