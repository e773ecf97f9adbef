"""`secateur recover`: train a cut model."""

from typing import TYPE_CHECKING

from secateur.cli.command import command
from secateur.cli.options import Json, Model, Output, Overwrite
from secateur.cli.output import say
from secateur.files import write_figures

if TYPE_CHECKING:
    from secateur.recovery import RecoverConfig

PANELS = {
    "Method": ("method",),
    "Text": ("data", "samples", "seqlen", "val_size", "seed"),
    "Training": (
        "epochs",
        "max_minutes",
        "lr",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
        "batch_size",
        "micro_batch_size",
        "gradient_checkpointing",
        "checkpoint_steps",
        "fsdp",
    ),
    "Adapter": ("lora_r", "lora_alpha", "lora_dropout", "lora_target", "merge", "load_in_8bit"),
    "Teacher": ("teacher", "distill_weight", "distill_temperature"),
    "Looking on": ("eval_steps", "early_stopping_patience", "extra_eval", "extra_eval_windows", "report_to"),
}


@command("secateur.recovery:RecoverConfig", PANELS, together=True)
def recover(
    model: Model,
    config: "RecoverConfig",
    output: Output,
    command_line: str,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Win quality back by fine-tuning, with or without a teacher.

    Writes a LoRA adapter, or a whole model with --merge and with all methods but lora. A model's zeros stay zero. A
    training that was stopped leaves its last checkpoint in OUTPUT.partial; the same command goes on from there.
    """
    from secateur.runs.steps import recover_model

    result = recover_model(model, output, config, command_line=command_line, overwrite=overwrite)
    if json is not None:
        write_figures(json, result.to_dict())
    steps = "step" if result.steps == 1 else "steps"
    say(
        f"{result.steps:,} {steps}, {result.tokens:,} tokens in {result.seconds:,.1f} s "
        f"({result.tokens_per_second:,.0f} tokens/s)"
    )
    losses = [entry["eval_loss"] for entry in result.history if entry.get("eval_loss") is not None]
    if losses:
        say(f"Validation loss {losses[0]:.3f} before, {min(losses):.3f} after")
    if result.sparsity is not None:
        say(f"{result.sparsity:.2%} of the weights in its sparse matrices are zero, as before")
    say(f"Trained on {result.tokens:,} tokens of {result.corpus}")
    say(str(output))
