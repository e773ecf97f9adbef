"""`secateur merge`: an adapter into its model."""

from typing import TYPE_CHECKING

from secateur.cli.command import command
from secateur.cli.options import Model, Output, Overwrite
from secateur.cli.output import say

if TYPE_CHECKING:
    from secateur.recovery import MergeConfig


@command("secateur.recovery:MergeConfig", {"Options": ("adapter",)})
def merge(model: Model, config: "MergeConfig", output: Output, command_line: str, overwrite: Overwrite = False) -> None:
    """Add a LoRA adapter to the weights of its model.

    In a sparse model that would fill the zeros: choose --keep-zeros or --allow-dense.

    secateur merge out/pruned --adapter out/adapter -o out/merged
    """
    from secateur.runs.steps import merge_model

    cost = merge_model(model, output, config, command_line=command_line, overwrite=overwrite)
    if cost is not None:
        beside, merged = cost
        say(f"Perplexity on {config.data}: {beside:.2f} with the adapter beside the weights, {merged:.2f} merged")
    say(str(output))
