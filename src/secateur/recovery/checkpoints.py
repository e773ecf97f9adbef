"""Checkpoints of an unfinished training, without a pickle: tensors as safetensors, everything else as JSON.

Transformers' Trainer writes the states of optimizer, schedule and random numbers with `torch.save`.
"""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.distributed import is_first
from secateur.errors import TrainingError
from secateur.recovery.sharding import like, own_part, whole

WEIGHTS, OPTIMIZER, RANDOM = "weights.safetensors", "optimizer.safetensors", "random.safetensors"
TRAINER_STATE = "state.json"


@dataclass
class TrainingProgress:
    """How far a training is, beyond what the Trainer's own state says.

    Attributes:
        tokens: trained on so far, padding not counted.
        seconds: spent so far, evaluations included, over all runs of this training.
        training_seconds: the part of it that went into optimizer steps.
        micro_batch_size: windows that go through the model at once, after halving.
        best_loss: lowest validation loss so far.
        best_step: where it was.
        evaluations_without_gain: evaluations since then.
    """

    micro_batch_size: int
    tokens: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what reading a damaged file of an unfinished training raises into a `TrainingError` that names it."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{path} is damaged ({reason}), so the training cannot go on; delete {path.parent} to begin anew"
        ) from error


def trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, by name; tied ones stand once."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def gathered_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, whole, on the CPU, in the first process; all have to ask for them."""
    return _gathered(trainable_weights(model))


def _gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if is_first():
            found[name] = value.cpu().contiguous()
    return found


@torch.no_grad()
def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights back that `gathered_weights` gave. A name that is not there raises `KeyError`."""
    for name, weight in trainable_weights(model).items():
        weight.copy_(like(weights[name], weight))


@torch.no_grad()
def keep_own_weights(model: nn.Module, kept: dict[str, Tensor]) -> None:
    """Copy this process's part of the weights that training changes to the CPU, into `kept`."""
    for name, weight in trainable_weights(model).items():
        part = own_part(weight)
        if name not in kept:
            kept[name] = torch.empty_like(part, device="cpu")
        kept[name].copy_(part)


@torch.no_grad()
def restore_own_weights(model: nn.Module, kept: dict[str, Tensor]) -> None:
    """Put back what `keep_own_weights` has kept."""
    for name, weight in trainable_weights(model).items():
        own_part(weight).copy_(kept[name])


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer's tensors by `number.name`, its parameter groups, and what is no tensor."""

    tensors: dict[str, Tensor]
    groups: list[Any]
    scalars: dict[str, Any]


def write_training_state(
    directory: Path, optimizer: OptimizerState, scheduler: Any, scaler: Any, progress: TrainingProgress
) -> None:
    """Write everything but the weights that an exact continuation needs: see `read_training_state`."""
    save_file(optimizer.tensors, directory / OPTIMIZER)
    numbers, rest = _random_state()
    save_file(numbers, directory / RANDOM)
    state = {
        "optimizer_groups": optimizer.groups,
        "optimizer_scalars": optimizer.scalars,
        "scheduler": scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "random": rest,
        "progress": vars(progress),
    }
    (directory / TRAINER_STATE).write_text(json.dumps(state), encoding="utf-8")


def read_training_state(directory: Path, optimizer: torch.optim.Optimizer, scheduler: Any, scaler: Any) -> None:
    """Restore optimizer, schedule and gradient scaler."""
    state = _read_state(directory)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in load_file(directory / OPTIMIZER).items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = like(tensor, weights[int(index)])
    for name, value in state["optimizer_scalars"].items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": state["optimizer_groups"]})
    scheduler.load_state_dict(state["scheduler"])
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])


def read_progress(directory: Path) -> TrainingProgress:
    return TrainingProgress(**_read_state(directory)["progress"])


def restore_random_state(directory: Path) -> None:
    """Set the generators of Python, NumPy and PyTorch to where they were when the checkpoint was written."""
    rest, numbers = _read_state(directory)["random"], load_file(directory / RANDOM)
    version, words, gauss = rest["python"]
    random.setstate((version, tuple(words), gauss))
    name, _, position, has_gauss, cached = rest["numpy"]
    np.random.set_state((name, numbers["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(numbers["torch"])
    for index in range(torch.cuda.device_count()):
        if f"cuda.{index}" in numbers:
            torch.cuda.set_rng_state(numbers[f"cuda.{index}"], index)


def _read_state(directory: Path) -> Any:
    return json.loads((directory / TRAINER_STATE).read_text(encoding="utf-8"))


def gathered_optimizer(optimizer: torch.optim.Optimizer) -> OptimizerState:
    """An optimizer's state, its tensors whole and in the first process; all have to ask for it."""
    state = optimizer.state_dict()
    values = {f"{index}.{key}": value for index, own in state["state"].items() for key, value in own.items()}
    tensors = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
    scalars = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
    return OptimizerState(_gathered(tensors), state["param_groups"], scalars)


def _random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    kind, words, *rest = np.random.get_state(legacy=True)
    numbers = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(words).astype(np.int64))}
    for index in range(torch.cuda.device_count()):
        numbers[f"cuda.{index}"] = torch.cuda.get_rng_state(index)
    return numbers, {"python": random.getstate(), "numpy": [kind, None, *rest]}
