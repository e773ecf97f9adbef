"""`secateur recover`: train a cut model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secateur.cli.command import command
from secateur.cli.options import Json, Model, Output, Overwrite
from secateur.cli.output import say
from secateur.files import write_figures

if TYPE_CHECKING:
    from secateur.recovery import RecoverConfig

PANELS = {
    "Options": ("data", "teacher", "merge", "method", "epochs"),
    "Text": ("samples", "seqlen", "val_size", "seed"),
    "Training": (
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
    "Adapter": ("lora_r", "lora_alpha", "lora_dropout", "lora_target", "load_in_8bit"),
    "Teacher": ("distill_weight", "distill_temperature"),
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
    """Win quality back by fine-tuning.

    Writes a LoRA adapter, or a whole model with --merge and with all methods but lora. A model's zeros stay zero. A
    training that was stopped leaves its last checkpoint in OUTPUT.partial; the same command goes on from there.

    secateur recover out/pruned -o out/recovered --merge --data 'notes.txt[:80%]' --teacher smollm2-135m --epochs 1
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
    for line in _before_and_after(result.history, result.best_step):
        say(line)
    if result.sparsity is not None:
        say(f"{result.sparsity:.2%} of the weights in its sparse matrices are zero, as before")
    say(f"Trained on {result.tokens:,} tokens of {result.corpus}")
    say(str(output))


def _before_and_after(history: Sequence[Mapping[str, Any]], best_step: int | None) -> Iterator[str]:
    """What training did to the losses on the windows set apart, and to the perplexity on other texts."""
    measured = [entry for entry in history if "eval_cross_entropy" in entry or "perplexity" in entry]
    if len(measured) < 2:
        return
    first, last = measured[0], next((entry for entry in measured if entry["step"] == best_step), measured[-1])
    for name, loss in (("cross entropy", "eval_cross_entropy"), ("KL from the teacher", "eval_kl_divergence")):
        if loss in first and loss in last:
            yield f"Validation {name} {first[loss]:.3f} before, {last[loss]:.3f} after (nats per token)"
    for text, before in first.get("perplexity", {}).items():
        after = last["perplexity"][text]
        worse = f": training made it worse by {after / before - 1:.1%}" if after > before else ""
        yield f"Perplexity on {text} {before:.2f} before, {after:.2f} after{worse}"
