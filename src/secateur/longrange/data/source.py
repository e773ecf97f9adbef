"""Where examples come from: a generator, or tables that are read row by row."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from huggingface_hub.errors import HTTPError
from numpy.typing import NDArray

from secateur.console import counted
from secateur.data.hub import require_reachable
from secateur.data.reading import first_line
from secateur.errors import DataError
from secateur.longrange.data.config import TaskSettings
from secateur.longrange.data.rows import SPLITS, Row, SplitName

Item = TypeVar("Item")

DEV_SHARE = 10  # one row in so many is split off where a source has no such split
FROM_TRAIN: tuple[SplitName, ...] = ("test", "dev")


class Source(Protocol):
    """All examples of a task.

    Attributes:
        identity: tells it from another source.
    """

    @property
    def identity(self) -> str: ...

    def count(self, split: SplitName) -> int:
        """How many examples a split has."""

    def rows(self, split: SplitName, shard: int) -> Iterator[Row]:
        """A split's examples from that shard on."""

    def recall(self, rows: Iterable[Row]) -> None:
        """Take note of examples that an earlier run has written."""


class Generated:
    """Examples that are made here, no two of them alike, each shard from a seed of its own.

    Args:
        draw: makes examples without end.
        settings: seed and counts.
        identity: tells it from another generator.
    """

    def __init__(
        self, draw: Callable[[np.random.Generator], Iterator[Row]], settings: TaskSettings, identity: str
    ) -> None:
        self.identity = identity
        self._draw = draw
        self._settings = settings
        self._seen: set[int] = set()

    def count(self, split: SplitName) -> int:
        return self._settings.counts[split] or 0

    def rows(self, split: SplitName, shard: int) -> Iterator[Row]:
        size = self._settings.shard_rows
        for number in range(shard, -(-self.count(split) // size)):
            rng = np.random.default_rng([self._settings.seed, SPLITS.index(split), number])
            yield from islice(self._fresh(rng), min(size, self.count(split) - number * size))

    def recall(self, rows: Iterable[Row]) -> None:
        self._seen.update(map(fingerprint, rows))

    def _fresh(self, rng: np.random.Generator) -> Iterator[Row]:
        for row in self._draw(rng):
            mark = fingerprint(row)
            if mark not in self._seen:
                self._seen.add(mark)
                yield row


def fingerprint(row: Row) -> int:
    """64 bits that two different inputs have in common with probability 2⁻⁶⁴."""
    digest = hashlib.blake2b(digest_size=8)
    for tokens in row.inputs:
        digest.update(tokens.tobytes())
    return int.from_bytes(digest.digest(), "little")


class Table(Protocol):
    """Numbered examples of one file or set of files."""

    def __len__(self) -> int: ...

    def read(self, chosen: NDArray[np.int64]) -> Iterator[Row]:
        """The examples with these numbers, which ascend."""


@dataclass(frozen=True)
class Tables:
    """The splits of a source that is read.

    Rows are chosen at random, by the seed, and stay in the order of the source. A split that the source does not
    have is split off from `train`.

    Attributes:
        tables: at least `train`.
        settings: seed and counts.
        identity: tells the source from another.
    """

    tables: dict[SplitName, Table]
    settings: TaskSettings
    identity: str

    def count(self, split: SplitName) -> int:
        return len(self._chosen[split])

    def rows(self, split: SplitName, shard: int) -> Iterator[Row]:
        table = self.tables.get(split, self.tables["train"])
        return table.read(self._chosen[split][shard * self.settings.shard_rows :])

    def recall(self, rows: Iterable[Row]) -> None:
        """Nothing to note: what is read twice is in the source twice."""

    @cached_property
    def _chosen(self) -> dict[SplitName, NDArray[np.int64]]:
        orders = {
            split: np.random.default_rng([self.settings.seed, SPLITS.index(split)]).permutation(len(table))
            for split, table in self.tables.items()
        }
        pool = orders["train"]
        for split in FROM_TRAIN:
            if split not in orders:
                size = self.settings.counts[split] or len(orders["train"]) // DEV_SHARE
                orders[split], pool = pool[:size], pool[size:]
        orders["train"] = pool
        return {split: np.sort(self._wanted(split, order)) for split, order in orders.items()}

    def _wanted(self, split: SplitName, order: NDArray[np.int64]) -> NDArray[np.int64]:
        wanted = self.settings.counts[split]
        if not len(order) or (wanted or 0) > len(order):
            raise DataError(f"{self.settings.task} has {self._shortage(split, len(order))}")
        return order[:wanted]

    def _shortage(self, split: SplitName, found: int) -> str:
        """What a task has whose split has too few examples, and what to do."""
        wanted, rows = self.settings.counts[split], len(self.tables["train"])
        if wanted is not None:
            there = counted(found, "example")
            return f"{there} for {split}, and --{split} asks for {wanted:,}; lower it or give more data"
        taken = [name for name in FROM_TRAIN if name not in self.tables]
        if split in taken and rows < DEV_SHARE:
            unsaid = [name for name in taken if self.settings.counts[name] is None]
            options = " and ".join(f"--{name}" for name in unsaid)
            return (
                f"{counted(rows, 'example')}, of which a tenth, so none, would be for {' and '.join(unsaid)}; "
                f"give more data, or say how many with {options}"
            )
        lower = [f"--{name}" for name in taken if name != split] if rows and split in ("train", *taken) else []
        if lower:
            return f"no examples left for {split}; give more data or lower {' or '.join(lower)}"
        return f"no examples for {split}; give more data"


@dataclass(frozen=True)
class HubTable:
    """A split of a data set on the Hugging Face hub, kept in the cache of `datasets`.

    Attributes:
        repository: of the data set.
        split: its name there.
        to_row: makes an example of a row.
        columns: what it needs.
        remedy: what to do where the hub cannot be reached.
    """

    repository: str
    split: str
    to_row: Callable[[dict[str, Any]], Row]
    columns: Sequence[str]
    remedy: str

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, chosen: NDArray[np.int64]) -> Iterator[Row]:
        return (self.to_row(self._dataset[int(number)]) for number in chosen)

    @cached_property
    def _dataset(self) -> Any:
        import datasets
        from datasets.exceptions import DatasetsError

        offline = datasets.config.HF_HUB_OFFLINE
        try:
            require_reachable(self.repository)
            dataset = datasets.load_dataset(self.repository, split=self.split)
        except (HTTPError, OSError, ValueError, DatasetsError) as error:
            problem = "is not in the cache" if offline else "cannot be fetched from the Hugging Face hub"
            raise DataError(f"{self.repository} {problem} ({first_line(error)}); {self.remedy}") from error
        missing = [column for column in self.columns if column not in dataset.column_names]
        if missing:
            raise DataError(f"{self.repository} on the hub has no column {missing[0]!r}; {self.remedy}")
        return dataset


def picked(items: Iterable[Item], chosen: NDArray[np.int64]) -> Iterator[tuple[int, Item]]:
    """The items of rising numbers, each with its number; nothing is read behind the last."""
    wanted = iter(chosen.tolist())
    next_wanted = next(wanted, None)
    for number, item in enumerate(items):
        if next_wanted is None:
            return
        if number == next_wanted:
            yield number, item
            next_wanted = next(wanted, None)


def find_directory(root: Path, names: Sequence[str], below: Sequence[str] = ()) -> Path | None:
    """The first of `root` and the directories below it that holds one of the names; None where there is none.

    Raises:
        DataError: `root` is no directory.
    """
    if not root.is_dir():
        raise DataError(f"{root} is no directory; give one with the data by --from, seen from {Path.cwd()}")
    places = [root, *(root / name for name in below)]
    return next((place for place in places if any((place / name).exists() for name in names)), None)


def require_files(directory: Path, names: Iterable[str]) -> list[Path]:
    """The files of these names. Raises `DataError` for the first that is missing."""
    files = [directory / name for name in names]
    for file in files:
        if not file.is_file():
            raise DataError(f"{directory} misses {file.name}; unpack the published archive again")
    return files


def unknown(root: Path, expected: str, remedy: str) -> DataError:
    """The error of a directory without the data: what should be there, what is, and where to get it."""
    found = sorted(entry.name for entry in islice(root.iterdir(), 1000))
    listed = ", ".join(found[:4]) + (", …" if len(found) > 4 else "") if found else "nothing"
    return DataError(f"{root} holds {listed}, but no {expected}; {remedy}")


def identity_of(directory: Path, files: Iterable[Path]) -> str:
    """What tells a set of files in a directory from another: their names and sizes."""
    listed = "".join(f"{file.relative_to(directory)} {file.stat().st_size}\n" for file in files)
    return f"files:{hashlib.sha256(listed.encode()).hexdigest()}"
