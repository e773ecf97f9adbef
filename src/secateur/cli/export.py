"""`secateur export`: a file for llama.cpp, a directory for other engines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.command import command
from secateur.cli.options import Json, Model
from secateur.cli.output import say
from secateur.files import expanded, write_figures

if TYPE_CHECKING:
    from secateur.exporting import ExportConfig

Exported = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where the model goes: FILE.gguf, or the directory of nemotron-nas."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what secateur wrote there.")]


@command("secateur.exporting:ExportConfig")
def export(
    model: Model, config: "ExportConfig", output: Exported, overwrite: Overwrite = False, json: Json = None
) -> None:
    """Write a model for another engine: GGUF or nemotron-nas.

    GGUF is the file that llama.cpp runs: weights, tokenizer and chat template are in it, and a model whose layers
    differ keeps its widths. --format nemotron-nas writes a directory that vLLM, SGLang and mlx-lm read, of a model of
    which MLP channels alone are cut.

    secateur export out/recovered -o model.gguf --dtype q8_0
    """
    from secateur.runs.steps import export_model

    output = expanded(output)
    result = export_model(model, output, config, overwrite=overwrite)
    if json is not None:
        write_figures(json, result.to_dict())
    widths = ", widths layer by layer" if result.per_layer else ""
    if result.format == "gguf":
        say(f"llama.cpp's architecture {result.architecture}{widths}; text is split as {result.pre_tokenizer}")
    else:
        say(f"{result.architecture} ({result.format}){widths}")
    say(f"{result.parameters_in_file:,} parameters in {result.dtype}, {result.bytes / 1e6:,.1f} MB")
    if result.calibration is not None:
        say(f"Rounded by what the inputs are on {result.calibration}")
    if result.fallback_line is not None:
        say(result.fallback_line)
    say(result.opens_in)
    say(str(output))
