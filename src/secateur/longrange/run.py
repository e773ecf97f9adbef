"""Runs of learned sparse attention: training in a directory of its own, its figures and pictures."""

import contextlib
import logging
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from pydantic import BaseModel, ConfigDict, ValidationError

from secateur.console import logging_to
from secateur.distributed import barrier, shared_directory
from secateur.environment import machine, versions
from secateur.errors import InputError, OutputError
from secateur.files import clear_own, write_bytes, write_json, write_text
from secateur.files.json_text import read_json
from secateur.files.result_files import COMMAND, LOG, SETTINGS
from secateur.longrange.card import write_card
from secateur.longrange.checkpoint import BEST, LAST, RunSettings, TrainState
from secateur.longrange.config import LongRangeConfig
from secateur.longrange.data import LongRangeData
from secateur.longrange.evaluate import Accuracy, accuracy_of, load_data, load_model
from secateur.longrange.model import LongRangeModel
from secateur.longrange.options import TrainConfig
from secateur.longrange.trainer import Report, Trainer
from secateur.models.loading import resolve_device
from secateur.report import pattern_plot, switch_plot

RESULTS, SWITCH, PATTERNS, BOARD = "results.json", "switch.png", "patterns.png", "tensorboard"
OWN = (SETTINGS, RESULTS, LAST, BEST, SWITCH, PATTERNS, COMMAND, LOG, f"{BOARD}/*")
IGNORED = {"config", "train_steps", "skewness", "distance", "data", "device", "report_to", "name", "task"}

logger = logging.getLogger(__name__)


class _Figures(BaseModel):
    """What tables show of `results.json`."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    name: str
    accuracy: float
    majority: float
    switched: int | None
    density: float | None
    step_ms: dict[str, float | None]
    memory_bytes: dict[str, float | None]


def train_run(
    config: TrainConfig,
    output: Path,
    *,
    command_line: str,
    overwrite: bool = False,
    settled: LongRangeConfig | None = None,
) -> dict[str, Any] | None:
    """Train, evaluate the best model on the test split, and write figures and pictures.

    Args:
        config: the command's options.
        output: the run is NAME below it.
        command_line: the command that repeats it.
        overwrite: train anew where there is a run.
        settled: a configuration instead of the task's own, under the command's options.

    Returns:
        The content of `results.json`; None in all processes but the first.

    Raises:
        InputError: options, data and model do not fit each other.
        OutputError: the directory holds something else, or a run with other settings.
        TrainingError: the loss is not finite.
        DataError: data or a checkpoint are missing or damaged.
    """
    settled = config.settled(settled)
    data = load_data(config.data_directory(output), config.task, settled)
    directory = output / config.name
    checksums = [shard.crc32 for shards in data.meta.shards.values() for shard in shards]
    chosen = {**config.model_dump(mode="json", exclude=IGNORED), "data": checksums}
    settings = RunSettings(config.task, settled, chosen)
    device = resolve_device(config.device)
    accelerator = Accelerator(cpu=device.type == "cpu")
    with shared_directory(directory, OWN, "a run of longrange", overwrite=overwrite) as place:
        if accelerator.is_main_process:
            _open(place, settings, overwrite)
        barrier()
        if (place / RESULTS).is_file():
            logger.info("%s is done already", directory)
            return read_results(place) if accelerator.is_main_process else None
        return _train(config, settings, data, place, accelerator, command_line)


def _train(
    config: TrainConfig,
    settings: RunSettings,
    data: LongRangeData,
    place: Path,
    accelerator: Accelerator,
    command_line: str,
) -> dict[str, Any] | None:
    """Train in a directory that holds nothing but an earlier go of the same, and publish."""
    with _logged(place, accelerator), _reporting(config, place, accelerator) as report:
        set_seed(config.seed)
        trainer = Trainer(settings.config, config, data, place, accelerator, report)
        state = trainer.train()
        if not accelerator.is_main_process:
            return None
        write_text(place / COMMAND, command_line + "\n")
        model, _ = load_model(place, config.task)
        model.to(accelerator.device)
        training, dataset = settings.config.training, settings.config.dataset
        tested = accuracy_of(model, data.test, training.batch_size, examples=dataset.test)
        results = _results(config, settings, state, model, tested)
        write_card(place, results, command_line)
        _publish(place, results, model)
    return results


def _open(place: Path, settings: RunSettings, overwrite: bool) -> None:
    """Begin a run, unless it is begun: one with other settings is kept, or dropped with `overwrite`."""
    begun = any((place / file).exists() for file in (LAST, RESULTS))
    if begun and RunSettings.load(place) == settings:
        return
    if begun and not overwrite:
        raise OutputError(
            f"{place} holds a run with other settings or data; give another --name, or --overwrite to train anew"
        )
    clear_own(place)
    settings.save(place)


def read_results(directory: Path) -> dict[str, Any]:
    """The content of `results.json`. Raises `OutputError` where it is damaged."""
    try:
        content = read_json(directory / RESULTS, "is damaged", OutputError)
        _Figures.model_validate(content)
        return dict(content)
    except (ValidationError, OutputError) as error:
        raise OutputError(
            f"{directory / RESULTS} is damaged; delete it, and the same command makes it again"
        ) from error


@contextlib.contextmanager
def _logged(directory: Path, accelerator: Accelerator) -> Iterator[None]:
    with logging_to(directory / LOG) if accelerator.is_main_process else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _reporting(config: TrainConfig, directory: Path, accelerator: Accelerator) -> Iterator[Report]:
    """A function that takes figures and a step, for TensorBoard where asked for."""
    if config.report_to == "none" or not accelerator.is_main_process:
        yield lambda figures, step: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("--report-to tensorboard needs the package tensorboard: pip install tensorboard") from error
    writer: Any = SummaryWriter(str(directory / BOARD))

    def report(figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    try:
        yield report
    finally:
        writer.close()


def _results(
    config: TrainConfig, settings: RunSettings, state: TrainState, model: LongRangeModel, tested: Accuracy
) -> dict[str, Any]:
    patterns = model.patterns
    density = None if patterns is None else sum(pattern.density for pattern in patterns) / len(patterns)
    return {
        "name": config.name,
        "task": config.task,
        "mode": config.mode,
        "pattern": config.pattern,
        "seed": config.seed,
        "accuracy": tested.accuracy,
        "majority": tested.majority,
        "test_examples": tested.examples,
        "best_on_dev": state.best,
        "steps": state.step,
        "switched": state.switched,
        "reason": state.reason,
        "density": density,
        "block_size": settings.config.model.block_size,
        "skewness": settings.config.training.skewness,
        "distance": settings.config.training.distance,
        "step_ms": {kind: 1000 * statistics.median(times) for kind, times in state.seconds.items() if times},
        "seconds": sum(map(sum, state.seconds.values())),
        "memory_bytes": state.memory,
        "evaluations": state.evaluations,
        "losses": state.losses,
        "history": state.switch["history"],
        "settings": settings.config.model_dump(),
        "versions": versions(),
        "machine": machine(),
    }


def _publish(directory: Path, results: dict[str, Any], model: LongRangeModel) -> None:
    write_bytes(directory / SWITCH, switch_plot(results))
    if model.patterns is not None:
        blocks = [pattern.blocks.tolist() for pattern in model.patterns]
        write_bytes(directory / PATTERNS, pattern_plot(blocks, results["block_size"]))
    write_json(directory / RESULTS, results)  # last: with it the run is done
