"""`secateur attention`: sparse attention without training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.command import command
from secateur.cli.group import Group
from secateur.cli.options import Json, Model, UsageError
from secateur.cli.output import say, show
from secateur.console import counted
from secateur.files import expanded, write_bytes, write_figures

if TYPE_CHECKING:
    from secateur.attention.config import CompareConfig, GenerateConfig, TuneConfig

BLOCKS = ("predictor", "query_block", "key_block", "simthreshd", "keep_ends")
RULE = ("topk", "cdfthreshd", "pvthreshd", "backend")

ProfileFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="Where the profile goes: FILE.safetensors.")
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Also draw layers by heads as a PNG.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a profile that is there.")]


@command(
    "secateur.attention.config:TuneConfig",
    {
        "Options": ("data", "l1"),
        "Error bounds": ("pv_l1", "price", "metric"),
        "Text": ("windows", "seqlen", "seed"),
        "Blocks": ("layers", *BLOCKS),
    },
    together=True,
)
def tune(
    model: Model,
    config: "TuneConfig",
    output: ProfileFile,
    overwrite: Overwrite = False,
    json: Json = None,
    plot: Plot = None,
) -> None:
    """Find thresholds for every head, within an error bound.

    One pass of a few windows through the model. The profile is a safetensors file for attention generate, attention
    compare and secateur.attention.apply. With torchrun --nproc-per-node N -m secateur the heads are shared out.

    secateur attention tune smollm2-135m -o profile.safetensors --data notes.txt
    """
    from secateur.attention.profile import require_new
    from secateur.attention.tuning import tune
    from secateur.distributed import is_first
    from secateur.models import load
    from secateur.report import attention_map

    output = expanded(output)
    require_new(output, overwrite)
    files = [path.absolute() for path in (output, json, plot) if path]
    if len(set(files)) < len(files):
        raise UsageError("--output, --json and --plot must be different files")
    loaded, tokenizer = load(model, **config.load_arguments())
    profile = tune(loaded, tokenizer, config)
    if not is_first():
        return
    profile.save(output)
    figures = profile.to_dict()
    if json is not None:
        write_figures(json, figures)
    if plot is not None:
        write_bytes(plot, attention_map(figures))
    say(f"{profile.sparsity:.1%} of the blocks left out, mean over {len(profile.layers)} layers' heads")
    windows = counted(profile.tuning["windows"], "window")
    say(f"tuned on {windows} of {config.seqlen:,} tokens of {config.data}")
    say(str(output))


@command(
    "secateur.attention.config:GenerateConfig",
    {
        "Options": ("prompt_file", "prompt", "profile", "max_new_tokens"),
        "Prompt": ("chat", "chat_template", "compile"),
        "What is left out": RULE,
        "Blocks": BLOCKS,
    },
)
def generate(model: Model, config: "GenerateConfig", json: Json = None) -> None:
    """Read a prompt with sparse attention and write on, greedily.

    secateur attention generate smollm2-135m --prompt-file long.txt --profile profile.safetensors
    """
    from secateur.attention.generate import generate
    from secateur.models import load

    loaded, tokenizer = load(model, **config.load_arguments())
    written = generate(loaded, tokenizer, config)
    if json is not None:
        write_figures(json, written.to_dict())
    say(written.text)
    say("")
    say(
        f"{written.prompt_tokens:,} tokens read in {written.prefill_seconds:.2f} s, {written.sparsity:.1%} of the "
        f"blocks left out; {written.new_tokens:,} written in {written.decode_seconds:.2f} s"
    )


@command(
    "secateur.attention.config:CompareConfig",
    {
        "Options": ("profile", "data"),
        "Text": ("windows", "seqlen", "batch_size", "repeats", "seed"),
        "What is left out": RULE,
        "Blocks": BLOCKS,
    },
)
def compare(model: Model, config: "CompareConfig", json: Json = None) -> None:
    """Sparse attention against dense: quality, time, sparsity.

    secateur attention compare smollm2-135m --profile profile.safetensors --data notes.txt
    """
    from secateur.attention.against_dense import compare_with_dense
    from secateur.models import load
    from secateur.report import attention_table

    loaded, tokenizer = load(model, **config.load_arguments())
    figures = compare_with_dense(loaded, tokenizer, config).to_dict()
    show(attention_table(figures))
    windows = counted(sum(figures["windows"].values()), "window")
    say(f"measured on {windows} of {config.seqlen:,} tokens of {config.data}")
    if json is not None:
        write_figures(json, figures)


attention = Group(
    "attention",
    "Sparse attention without training.",
    {each.name: each for each in (tune, generate, compare)},
)
