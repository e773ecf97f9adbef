"""`secateur export`: a file for llama.cpp."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.command import command
from secateur.cli.options import Json, Model
from secateur.cli.output import say
from secateur.files import expanded, write_figures

if TYPE_CHECKING:
    from secateur.exporting import ExportConfig

GgufFile = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the model goes: FILE.gguf.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]


@command("secateur.exporting:ExportConfig")
def export(
    model: Model, config: "ExportConfig", output: GgufFile, overwrite: Overwrite = False, json: Json = None
) -> None:
    """Write a model as GGUF, the file that llama.cpp runs.

    Weights, tokenizer and chat template are in it. A model whose layers differ keeps its widths.
    """
    from secateur.runs.steps import export_model

    output = expanded(output)
    result = export_model(model, output, config, overwrite=overwrite)
    if json is not None:
        write_figures(json, result.to_dict())
    widths = ", widths layer by layer" if result.per_layer else ""
    say(f"llama.cpp's architecture {result.architecture}{widths}; text is split as {result.pre_tokenizer}")
    say(f"{result.parameters_in_file:,} parameters in {result.dtype}, {result.bytes / 1e6:,.1f} MB")
    say(str(output))
