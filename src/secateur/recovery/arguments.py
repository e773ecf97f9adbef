"""The Trainer's own arguments, and where its reporters write."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, TrainingArguments

from secateur.recovery.config import RecoverConfig

REPORTS = "reports"
REPORTERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}


@dataclass
class OnDevice(TrainingArguments):
    """Training arguments that leave the model where it is, on one device per process."""

    model_device: str = field(default="cpu")

    @property
    def device(self) -> torch.device:
        found = cast(torch.device, super().device)
        return found if self.world_size > 1 or self.use_cpu else torch.device(self.model_device)

    @property
    def n_gpu(self) -> int:
        return min(1, cast(int, super().n_gpu))


def training_arguments(
    model: PreTrainedModel | PeftModel,
    number_format: torch.dtype,
    config: RecoverConfig,
    directory: Path,
    evaluate_first: bool,
) -> OnDevice:
    """The Trainer's arguments for a training.

    Args:
        model: ready to train.
        number_format: what it came in; not float32 is the format of autocast.
        config: the command's settings.
        directory: of the unfinished training.
        evaluate_first: whether to evaluate before the first step.
    """
    return OnDevice(
        output_dir=str(directory),
        model_device=str(model.device),
        use_cpu=model.device.type == "cpu",
        bf16=number_format == torch.bfloat16,
        fp16=number_format == torch.float16,
        per_device_train_batch_size=config.batch_size,  # of all processes: see RecoveryTrainer
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        eval_on_start=evaluate_first,
        logging_strategy="no",
        save_strategy="no",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=config.report_to,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # none changes
        seed=config.seed,
        data_seed=config.seed,
    )


@contextmanager
def reports_below(directory: Path) -> Iterator[None]:
    """Curves that a reporter writes to disk stand in the training's own directory, not in the current one."""
    names = ("TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "TRACKIO_DIR")
    missing = [name for name in names if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, str(directory / REPORTS)))
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def reports(directory: Path) -> dict[str, object]:
    """The files that a reporter has written, by their place in the output."""
    written = [path for path in (directory / REPORTS).rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in written}
