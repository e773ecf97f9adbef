"""What a run keeps on disk: weights, patterns, the optimiser's state and how far it is. Safetensors and JSON only."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from secateur.errors import DataError, InputError
from secateur.files import write_bytes, write_json
from secateur.files.json_text import parse_json, read_json
from secateur.files.result_files import SETTINGS
from secateur.longrange.config import LongRangeConfig
from secateur.longrange.statistics import AttentionWatch, LayerState

LAST, BEST = "last.safetensors", "best.safetensors"
FORMAT = "secateur longrange checkpoint 1"


@dataclass
class TrainState:
    """How far a training is.

    Attributes:
        step: steps done.
        switched: the step before which attention became sparse; None while it is dense.
        reason: why it did.
        best: highest accuracy on dev, of models that count as the run's result; that is those after a switch.
        stale: evaluations since.
        evaluations: step, loss and accuracy on dev of each.
        losses: step and mean training loss.
        seconds: of the steps by kind: dense, checked (dense, with a look at the attention), sparse.
        memory: most bytes in use in a step beyond what was before it, by kind.
        switch: the rule with its history, `Switch.record`.
    """

    step: int = 0
    switched: int | None = None
    reason: str = ""
    best: float = -1.0
    stale: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    switch: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSettings:
    """What a run was started with: a run of others does not go on.

    Attributes:
        task: of the Long Range Arena.
        config: model and training.
        options: of the command that bear on the result.
    """

    task: str
    config: LongRangeConfig
    options: dict[str, Any]

    def save(self, directory: Path) -> None:
        """Write `settings.json`."""
        write_json(directory / SETTINGS, {"task": self.task, "config": self.config.model_dump(), **self.options})

    @classmethod
    def load(cls, directory: Path) -> "RunSettings":
        """Read them. Raises `InputError` where there is no run or it is damaged."""
        file = directory / SETTINGS
        if not file.is_file():
            raise InputError(
                f"{directory} holds no run; secateur longrange train makes one (-o is the directory above --name)"
            )
        try:
            values = read_json(file)
            return cls(values.pop("task"), LongRangeConfig.model_validate(values.pop("config")), values)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{file} is damaged; train anew with --overwrite") from error


@contextmanager
def restoring(file: Path) -> Iterator[None]:
    """Turn what goes wrong when a checkpoint's tensors are put in place into a `DataError`."""
    try:
        yield
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} does not fit the run's settings, or is damaged; train anew with --overwrite"
        ) from error


def write_checkpoint(file: Path, task: str, tensors: Mapping[str, Tensor], state: TrainState | None = None) -> None:
    """Write tensors and, of a training that is to go on, its state. Raises `OutputError`."""
    metadata = {"format": FORMAT, "task": task, "state": json.dumps(asdict(state) if state else None)}
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    write_bytes(file, save(copies, metadata))


def read_checkpoint(file: Path, task: str) -> tuple[dict[str, Tensor], TrainState | None]:
    """Read a checkpoint of a task.

    Raises:
        InputError: there is none, or it is of another task.
        DataError: it is damaged.
    """
    if not file.is_file():
        raise InputError(f"{file} is not there; secateur longrange train --task {task} writes one")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise InputError(f"{file} is no checkpoint of secateur longrange; train anew with --overwrite")
        found = metadata["task"]
        state = parse_json(metadata["state"])
        loaded = TypeAdapter(TrainState).validate_python(state) if state else None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{file} is damaged; train anew with --overwrite") from error
    if found != task:
        raise InputError(f"{file} is a checkpoint of the task {found}, not of {task}; give --task {found}")
    return tensors, loaded


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by parameter number and name."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser.{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put such a state back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, place = name.partition(".")
        if kind == "optimiser":
            index, _, key = place.partition(".")
            state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def watch_tensors(watch: AttentionWatch) -> dict[str, Tensor]:
    """What is remembered of each layer's attention, by layer and name."""
    return {
        f"{layer}.{name}": torch.as_tensor(value)
        for layer, remembered in watch.layers.items()
        for name, value in vars(remembered).items()
    }


def load_watch(watch: AttentionWatch, tensors: Mapping[str, Tensor]) -> None:
    """Put it back."""
    layers: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        layer, _, key = name.partition(".")
        layers.setdefault(int(layer), {})[key] = int(value) if key == "observations" else value
    watch.layers = {layer: LayerState(**values) for layer, values in layers.items()}
