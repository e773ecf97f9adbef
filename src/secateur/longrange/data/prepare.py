"""Bringing a task's data into the form that training reads."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from secateur.console import track
from secateur.errors import DataError, InputError, OutputError
from secateur.files import clear_own, working_directory, write_json
from secateur.files.input_text import shortened
from secateur.files.json_text import read_json
from secateur.longrange.data import listops, pathfinder
from secateur.longrange.data.config import TASKS, PrepareConfig, TaskName, TaskSettings
from secateur.longrange.data.image import open_image
from secateur.longrange.data.retrieval import open_retrieval
from secateur.longrange.data.rows import SPLITS, SplitName
from secateur.longrange.data.source import Generated, Source
from secateur.longrange.data.store import (
    META_FILE,
    OPTIONS_FILE,
    LongRangeData,
    Meta,
    ShardMeta,
    SplitStatistics,
    checksum,
    open_shard,
    shard_path,
    write_meta,
    write_shard,
)
from secateur.longrange.data.text import open_text
from secateur.models.options import configured

OWN = (OPTIONS_FILE, META_FILE, *(f"{split}-*.arrow" for split in SPLITS))

logger = logging.getLogger(__name__)


def prepare(
    task: str, output: str | Path, config: PrepareConfig | None = None, overwrite: bool = False, **options: Any
) -> Meta:
    """Generate or read the data of a Long Range Arena task and store them for training.

    What was stopped goes on at the file where it stopped, to the same result. One file's rows (4096) are in memory at
    once. Tay et al. 2021, "Long Range Arena: A Benchmark for Efficient Transformers".

    Args:
        task: listops, pathfinder, image, text or retrieval.
        output: the directory to fill.
        config: seed, lengths, numbers of examples, and where data are read.
        overwrite: replace what the directory holds, instead of going on with it.
        options: fields of `PrepareConfig`, instead of `config` or over it.

    Returns:
        What was prepared, with its statistics. Where it is finished already, nothing is done.

    Raises:
        InputError: the task is unknown, or ignores an option that was given.
        DataError: the data cannot be reached or read; the message says what to download.
        OutputError: the directory holds something else, or cannot be written.
    """
    start = time.perf_counter()
    settings = configured(PrepareConfig, config, options).settings(task)
    with _reading(settings.task):
        source = _SOURCES[settings.task](settings)
    chosen = settings.options(source.identity)
    inputs = [str(settings.from_directory)] if settings.from_directory else []
    with working_directory(output, OWN, "prepared data", overwrite=overwrite, inputs=inputs) as root:
        differing = _difference(root / OPTIONS_FILE, chosen, overwrite)
        if differing and not overwrite:
            raise OutputError(f"{root} holds data {differing}; name another directory or pass --overwrite")
        if differing:
            clear_own(root)
        if (root / META_FILE).exists():
            meta = LongRangeData.load(root).meta
            logger.info("%s holds this already; nothing is left to do", root)
            return meta
        return _fill(root, source, settings, chosen, start)


def _fill(root: Path, source: Source, settings: TaskSettings, chosen: dict[str, Any], start: float) -> Meta:
    """Write what is not written yet, with what says that it is finished last."""
    with _reading(settings.task):
        counts = {split: source.count(split) for split in SPLITS}
    write_json(root / OPTIONS_FILE, chosen)
    for split in SPLITS:
        _write_split(root, split, source, settings)
    meta = _describe(root, settings, chosen, counts, start)
    write_meta(root, meta)
    return meta


def _generated_listops(settings: TaskSettings) -> Source:
    return Generated(lambda rng: listops.draw_examples(rng, settings.max_length), settings, "listops 1")


def _generated_pathfinder(settings: TaskSettings) -> Source:
    length = settings.path_length or 0
    return Generated(lambda rng: pathfinder.draw_examples(rng, length), settings, "pathfinder 1")


_SOURCES: dict[TaskName, Callable[[TaskSettings], Source]] = {
    "listops": _generated_listops,
    "pathfinder": _generated_pathfinder,
    "image": open_image,
    "text": open_text,
    "retrieval": open_retrieval,
}


@contextmanager
def _reading(task: TaskName) -> Iterator[None]:
    """Turn an error of the file system into a `DataError`."""
    try:
        yield
    except OSError as error:
        place = error.filename or f"the data of {task}"
        raise DataError(f"{place} cannot be read: {error.strerror or error}; check the directory of --from") from error


def _difference(path: Path, chosen: dict[str, Any], overwrite: bool) -> str | None:
    """How the options in a file differ from those chosen now; None where they do not, or there is no file."""
    if not path.exists():
        return None
    try:
        stored = read_json(path)
        if not isinstance(stored, dict):
            raise ValueError("no object")
    except (ValueError, InputError) as error:
        if overwrite:
            return "that are damaged"
        raise OutputError(f"{path} is damaged; name another directory or pass --overwrite") from error
    for name, value in chosen.items():
        if stored.get(name) != value:
            return (
                f"of another {name} ({shortened(stored.get(name))}, not {value})"
                if name != "source"
                else "of another source"
            )
    return None


def _write_split(root: Path, split: SplitName, source: Source, settings: TaskSettings) -> None:
    total, size = source.count(split), settings.shard_rows
    shards = -(-total // size)
    done = _finished(root, split, total, settings)
    two_inputs = TASKS[settings.task].two_inputs
    for number in range(done):
        source.recall(open_shard(shard_path(root, split, number), two_inputs).rows())
    if done:
        logger.info("%s goes on after %d of %d files", split, done, shards)
    remaining = max(total - done * size, 0)
    with closing(track(source.rows(split, done), f"Preparing {split}", total=remaining)) as rows:
        for number in range(done, shards):
            with _reading(settings.task):
                chunk = list(islice(rows, size))
            if len(chunk) < min(size, total - number * size):
                raise DataError(f"the source of {settings.task} has become shorter while it was read; start anew")
            write_shard(shard_path(root, split, number), chunk)


def _finished(root: Path, split: SplitName, total: int, settings: TaskSettings) -> int:
    """How many files an earlier run has finished, from the first on."""
    two_inputs = TASKS[settings.task].two_inputs
    for number in range(-(-total // settings.shard_rows)):
        path = shard_path(root, split, number)
        if not path.exists():
            return number
        shard = open_shard(path, two_inputs)
        if not shard.fits(settings.max_length, TASKS[settings.task].vocab_size, TASKS[settings.task].num_classes):
            raise DataError(f"{path} is damaged: its tokens are not the task's; prepare it anew with --overwrite")
        if len(shard) != min(settings.shard_rows, total - number * settings.shard_rows):
            raise DataError(f"{path} is damaged: it has another number of rows; prepare it anew with --overwrite")
    return -(-total // settings.shard_rows)


def _describe(
    root: Path, settings: TaskSettings, chosen: dict[str, Any], counts: dict[SplitName, int], start: float
) -> Meta:
    task = TASKS[settings.task]
    statistics: dict[SplitName, SplitStatistics] = {}
    shards: dict[SplitName, list[ShardMeta]] = {}
    for split, rows in counts.items():
        lengths = np.zeros(settings.max_length + 1, np.int64)
        classes = np.zeros(task.num_classes, np.int64)
        shards[split] = []
        for number in range(-(-rows // settings.shard_rows)):
            path = shard_path(root, split, number)
            shard = open_shard(path, task.two_inputs)
            lengths += np.bincount(shard.lengths(), minlength=len(lengths))
            classes += np.bincount(shard.labels, minlength=len(classes))
            shards[split].append(ShardMeta(len(shard), path.stat().st_size, checksum(path)))
        statistics[split] = _statistics(lengths, classes)
    return Meta(
        task=settings.task,
        vocab_size=task.vocab_size,
        num_classes=task.num_classes,
        max_length=settings.max_length,
        two_inputs=task.two_inputs,
        seed=settings.seed,
        options=chosen,
        statistics=statistics,
        shards=shards,
        seconds=round(time.perf_counter() - start, 3),
    )


def _statistics(lengths: np.ndarray, classes: np.ndarray) -> SplitStatistics:
    """Statistics of a split, out of how many sequences have each length and how many rows each class."""
    number = int(lengths.sum())
    below = np.cumsum(lengths)
    # The median is the mean of the two sequences in the middle, which are the same where their number is odd.
    middle = np.searchsorted(below, [(number - 1) // 2, number // 2], side="right")
    return SplitStatistics(
        rows=int(classes.sum()),
        mean_length=float(lengths @ np.arange(len(lengths)) / number),
        median_length=float(middle.mean()),
        longest=int(np.flatnonzero(lengths)[-1]),
        class_shares=[float(share) for share in classes / classes.sum()],
    )
