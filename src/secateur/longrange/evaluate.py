"""Accuracy of a model on a split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn import functional

from secateur.console import track
from secateur.errors import InputError
from secateur.longrange.checkpoint import BEST, RunSettings, read_checkpoint, restoring
from secateur.longrange.config import LongRangeConfig, towers
from secateur.longrange.data import LongRangeData, Split
from secateur.longrange.model import LongRangeModel
from secateur.longrange.options import EvaluateConfig
from secateur.models.loading import resolve_device


@dataclass(frozen=True)
class Accuracy:
    """Of a model on a split.

    Attributes:
        accuracy: share of the examples whose class it names.
        loss: mean cross entropy, nats per example.
        majority: share of the commonest class.
        examples: how many.
    """

    accuracy: float
    loss: float
    majority: float
    examples: int


@torch.no_grad()
def accuracy_of(
    model: LongRangeModel,
    split: Split,
    batch_size: int,
    accelerator: Accelerator | None = None,
    examples: int | None = None,
    batches: int | None = None,
) -> Accuracy:
    """Classify a split's examples in their order.

    Args:
        model: in any mode; it is left in evaluation mode.
        split: the examples.
        batch_size: how many at once.
        accelerator: of several processes, which share the examples out.
        examples: how many at most; None: all.
        batches: how many at most.
    """
    model.eval()
    device = next(model.parameters()).device
    count = min(len(split), examples or len(split), batch_size * batches if batches else len(split))
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    classes = model.options.num_classes
    sums = torch.zeros(3 + classes, dtype=torch.float64, device=device)  # right ones, loss, examples, of each class
    mine = range(rank, count, processes)
    for first in track(range(0, len(mine), batch_size), "Evaluating"):
        batch = split.batch(mine[first : first + batch_size]).to(device)
        logits = model(batch.input_ids, batch.input_ids_2).float()
        sums[0] += (logits.argmax(-1) == batch.labels).sum()
        sums[1] += functional.cross_entropy(logits, batch.labels, reduction="sum")
        sums[2] += len(batch.labels)
        sums[3:] += batch.labels.bincount(minlength=classes)
    if processes > 1:
        torch.distributed.all_reduce(sums)
    right, loss, seen = sums[:3].tolist()
    return Accuracy(right / seen, loss / seen, float(sums[3:].max()) / seen, round(seen))


def load_data(directory: Path, task: str, config: LongRangeConfig) -> LongRangeData:
    """The prepared examples of a task.

    Raises:
        InputError: they are of another task, or do not fit the model.
        DataError: there are none, or they are damaged.
    """
    data = LongRangeData.load(directory)
    if data.meta.task != task:
        raise InputError(f"{directory} holds examples of {data.meta.task}, not of {task}; give --data DIR")
    sizes = config.model
    for name, needed, given in (
        ("vocab_size", data.meta.vocab_size, sizes.vocab_size),
        ("max_seq_len", data.meta.max_length, sizes.max_seq_len),
        ("num_classes", data.meta.num_classes, sizes.num_classes),
    ):
        if given < needed:
            raise InputError(
                f"{directory} needs a {name} of {needed} and the model has {given}; set model.{name} in the file of "
                "--config"
            )
    return data


def load_model(directory: Path, task: str) -> tuple[LongRangeModel, RunSettings]:
    """A run's best model.

    Raises:
        InputError: there is no run, or it is of another task.
        DataError: its checkpoint is damaged.
    """
    settings = RunSettings.load(directory)
    tensors, _ = read_checkpoint(directory / BEST, task)
    model = LongRangeModel(settings.config.model, towers(task))
    with restoring(directory / BEST):
        model.load_state_dict(tensors)
    return model, settings


def evaluate(config: EvaluateConfig, output: Path) -> dict[str, Any]:
    """Accuracy of a run's best model.

    Args:
        config: which run, and on what.
        output: the directory that holds the run.

    Raises:
        InputError: there is no such run, or it is of another task than the data or the options.
        DataError: checkpoint or data are damaged or missing.
    """
    model, settings = load_model(output / config.name, config.task)
    data = load_data(config.data_directory(output), config.task, settings.config)
    model.to(resolve_device(config.device))
    split = data.test if config.split == "test" else data.dev
    sizes = settings.config.dataset
    examples = sizes.test if config.split == "test" else sizes.dev
    found = accuracy_of(model, split, config.batch_size, examples=examples)
    return {
        "task": config.task,
        "name": config.name,
        "split": config.split,
        "accuracy": found.accuracy,
        "loss": found.loss,
        "majority": found.majority,
        "examples": found.examples,
    }
