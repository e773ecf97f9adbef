"""What a training leaves: the weights of its end, or the last good ones of one that diverged."""

from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur import files
from secateur.distributed import barrier, is_first
from secateur.models import save
from secateur.recovery.config import RecoverConfig
from secateur.recovery.lora import write_adapter
from secateur.recovery.masked import bake_in
from secateur.recovery.result import history_of
from secateur.recovery.trainer import Diverged, RecoveryTrainer
from secateur.recovery.workplace import HISTORY_FILE


def finish(model: PreTrainedModel | PeftModel, number_format: torch.dtype, merged: bool) -> PreTrainedModel | PeftModel:
    """The trained model as it is handed over: its masks in its weights, its adapter too where it is to be merged."""
    if isinstance(model, PeftModel):
        return cast(PreTrainedModel, model.merge_and_unload()).eval() if merged else model.eval()
    bake_in(model)
    nn.Module.to(model, number_format)  # PreTrainedModel.to is annotated without its arguments
    return model.eval()


def given_back(model: PreTrainedModel | PeftModel, number_format: torch.dtype) -> None:
    """Leave a model whose training was stopped as one that can be used and saved: without a half trained adapter."""
    if isinstance(model, PeftModel):
        cast(PreTrainedModel, model.unload()).eval()
    else:
        finish(model, number_format, merged=False)


def write(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    overwrite: bool,
    contents: dict[str, object],
) -> None:
    """Write a model, or of one with an adapter the adapter alone, with files beside it by name."""
    if not isinstance(model, PeftModel):
        save(model, tokenizer, output, overwrite=overwrite, extras=contents)
        return
    with files.new_directory(output, overwrite) as staging:
        write_adapter(model, staging)
        for name, content in contents.items():
            files.write_extra(staging / name, content)


def keep_last_good(
    trainer: RecoveryTrainer,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    number_format: torch.dtype,
    output: Path,
    problem: str,
) -> Path | None:
    """Write the last weights that gave a finite loss beside the output; None where no step was done."""
    if not trainer.good_step:
        return None
    kept = _unused(output.with_name(f"{output.name}.last-good"))
    barrier()
    note = {"stopped": problem, "step": trainer.good_step, "history": history_of(trainer.state.log_history)}
    if is_first():
        write(finish(model, number_format, merged=False), tokenizer, kept, False, {HISTORY_FILE: note})
    return kept


def _unused(path: Path) -> Path:
    """The path itself, or with the first number behind it at which nothing stands."""
    candidates = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
    return next(candidate for candidate in candidates if not candidate.exists())


def advice(problem: Diverged, step: int, kept: Path | str | None, config: RecoverConfig) -> str:
    """What an error says of a training that diverged after so many steps, and what to try."""
    where = f"the last good weights are in {kept}" if kept else "no weights are worth keeping"
    return (
        f"training stopped at step {step + 1}: {problem}; {where}; try a lower --lr (now {config.learning_rate:g}) or "
        f"--max-grad-norm (now {config.max_grad_norm:g}), more --warmup-steps, or --dtype float32"
    )
