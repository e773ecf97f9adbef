"""Prepared data on disk: Arrow files of a bounded number of rows, read through a memory map."""

import io
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from secateur.errors import DataError, InputError
from secateur.files import expanded, write_bytes, write_json
from secateur.files.json_text import read_json
from secateur.longrange.data.config import TASKS, TaskName
from secateur.longrange.data.rows import PADDING, SPLITS, Row, SplitName, Tokens

META_FILE, OPTIONS_FILE = "meta.json", "options.json"
AGAIN = "prepare it anew with --overwrite"

_COLUMNS = ("input_ids", "input_ids_2")


@dataclass(frozen=True)
class ShardMeta:
    """What a file must be: how many rows and bytes, and their CRC-32."""

    rows: int
    bytes: int
    crc32: int


@dataclass(frozen=True)
class SplitStatistics:
    """How many rows a split has, the lengths of its sequences in tokens, and each class's share of the rows."""

    rows: int
    mean_length: float
    median_length: float
    longest: int
    class_shares: list[float]


@dataclass(frozen=True)
class Meta:
    """What `meta.json` says.

    Attributes:
        task: its name.
        vocab_size: tokens, the padding (0) included.
        num_classes: classes.
        max_length: no sequence is longer.
        two_inputs: whether an example is a pair of sequences.
        seed: of everything random.
        options: everything that decided the result.
        statistics: per split.
        shards: the files of each split, in order.
        seconds: that the last run of `prepare` took.
    """

    task: TaskName
    vocab_size: int
    num_classes: int
    max_length: int
    two_inputs: bool
    seed: int
    options: dict[str, Any]
    statistics: dict[SplitName, SplitStatistics]
    shards: dict[SplitName, list[ShardMeta]]
    seconds: float

    @property
    def counts(self) -> dict[SplitName, int]:
        """Rows per split."""
        return {split: figures.rows for split, figures in self.statistics.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Batch:
    """Examples side by side.

    Attributes:
        input_ids: (rows, length), int64, padded with 0 at the end.
        input_ids_2: the second sequences, likewise; None where the task has one.
        labels: (rows,), int64.
    """

    input_ids: Tensor
    input_ids_2: Tensor | None
    labels: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device."""
        second = None if self.input_ids_2 is None else self.input_ids_2.to(device)
        return Batch(self.input_ids.to(device), second, self.labels.to(device))

    def split(self, rows: int) -> "list[Batch]":
        """Parts of so many rows, the last perhaps of fewer."""
        parts = [slice(first, first + rows) for first in range(0, len(self.labels), rows)]
        second = self.input_ids_2
        return [
            Batch(self.input_ids[part], None if second is None else second[part], self.labels[part]) for part in parts
        ]


@dataclass(frozen=True)
class Shard:
    """One file, memory-mapped.

    Attributes:
        inputs: of each input the tokens of all rows, (tokens,), and where each row begins and ends, (rows + 1,).
        labels: (rows,).
    """

    inputs: list[tuple[Tokens, NDArray[np.int32]]]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def tokens(self, row: int, which: int) -> Tokens:
        """One sequence of a row."""
        values, offsets = self.inputs[which]
        return values[offsets[row] : offsets[row + 1]]

    def rows(self) -> Iterator[Row]:
        """All rows, in order."""
        for row, label in enumerate(self.labels):
            yield Row(tuple(self.tokens(row, which) for which in range(len(self.inputs))), int(label))

    def fits(self, max_length: int, vocab_size: int, num_classes: int) -> bool:
        """Whether lengths, tokens and labels are within these bounds."""
        lengths = self.lengths()
        return bool(
            (lengths >= 0).all()
            and (lengths <= max_length).all()
            and all((values < vocab_size).all() for values, _ in self.inputs)
            and (self.labels < num_classes).all()
        )

    def lengths(self) -> NDArray[np.int64]:
        """How long the sequences are, of all inputs one after the other."""
        return np.concatenate([np.diff(offsets) for _, offsets in self.inputs]).astype(np.int64)


class Split:
    """The rows of a split, read from disk as they are asked for.

    Args:
        shards: its files, opened.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._starts = [0, *accumulate(map(len, shards))]

    def __len__(self) -> int:
        return self._starts[-1]

    def batch(self, indices: Sequence[int], pad_to: int | None = None) -> Batch:
        """Rows by their numbers.

        Args:
            indices: from 0 on, in any order, also several times.
            pad_to: the length of the tensors; None for that of the longest sequence among these.

        Raises:
            IndexError: there is no such row.
            InputError: a sequence is longer than `pad_to`.
        """
        places = [self._place(int(index)) for index in indices]
        inputs = len(self._shards[0].inputs)
        rows = [[shard.tokens(row, which) for shard, row in places] for which in range(inputs)]
        longest = max((len(tokens) for column in rows for tokens in column), default=0)
        if pad_to is not None and longest > pad_to:
            raise InputError(f"a sequence of {longest:,} tokens does not fit into {pad_to:,}; pad to more")
        first, *second = (_padded(column, longest if pad_to is None else pad_to) for column in rows)
        labels = torch.tensor([int(shard.labels[row]) for shard, row in places], dtype=torch.int64)
        return Batch(first, second[0] if second else None, labels)

    def _place(self, index: int) -> tuple[Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no row {index:,}; the split has {len(self):,}")
        number = bisect_right(self._starts, index) - 1
        return self._shards[number], index - self._starts[number]


def _padded(rows: Sequence[Tokens], length: int) -> Tensor:
    padded = np.full((len(rows), length), PADDING, np.int64)
    for into, tokens in zip(padded, rows, strict=True):
        into[: len(tokens)] = tokens
    return torch.from_numpy(padded)


@dataclass(frozen=True)
class LongRangeData:
    """A prepared task.

    Attributes:
        meta: what it is.
        train: to learn from.
        dev: to choose by.
        test: to report.
    """

    meta: Meta
    train: Split
    dev: Split
    test: Split

    @classmethod
    def load(cls, directory: str | Path, verify: bool = True) -> "LongRangeData":
        """Open what `prepare` has written. Nothing is read into memory.

        Args:
            directory: that it wrote.
            verify: also compare checksums, which reads all files once (about a second per GB).

        Raises:
            DataError: there are no data, or they are unfinished or damaged.
        """
        root = expanded(directory)
        meta = read_meta(root)
        splits = {
            split: Split(
                [
                    _checked_shard(shard_path(root, split, number), shard, meta.two_inputs, verify)
                    for number, shard in enumerate(meta.shards[split])
                ]
            )
            for split in SPLITS
        }
        return cls(meta, splits["train"], splits["dev"], splits["test"])


def shard_path(root: Path, split: SplitName, number: int) -> Path:
    """The file of a shard."""
    return root / f"{split}-{number:05d}.arrow"


def write_shard(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as one Arrow file, beside and renamed into place. Raises `OutputError`."""
    columns: dict[str, pa.Array] = {}
    for name, sequences in zip(_COLUMNS, zip(*(row.inputs for row in rows), strict=True), strict=False):
        offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int32)
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(sequences)))
    columns["label"] = pa.array([row.label for row in rows], pa.uint8())
    batch = pa.record_batch(columns)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    write_bytes(path, sink.getvalue())


def open_shard(path: Path, two_inputs: bool) -> Shard:
    """Memory-map a file that `write_shard` has written.

    Raises:
        DataError: it is missing, cut off or something else.
    """
    names = _COLUMNS[: 1 + two_inputs]
    schema = pa.schema([*((name, pa.list_(pa.uint16())) for name in names), ("label", pa.uint8())])
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        if file.schema != schema or file.num_record_batches != 1:
            raise DataError(f"{path} is damaged: its columns are not those of the task; {AGAIN}")
        batch = file.get_batch(0)
        batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged or missing ({next(iter(str(error).splitlines()), '')}); {AGAIN}") from error
    inputs = [
        (batch.column(name).values.to_numpy(zero_copy_only=True), batch.column(name).offsets.to_numpy())
        for name in names
    ]
    return Shard(inputs, batch.column("label").to_numpy(zero_copy_only=True))


def _checked_shard(path: Path, meta: ShardMeta, two_inputs: bool, verify: bool) -> Shard:
    size = path.stat().st_size if path.is_file() else 0
    if size != meta.bytes:
        raise DataError(f"{path} is damaged: it has {size:,} bytes, not {meta.bytes:,}; {AGAIN}")
    if verify and checksum(path) != meta.crc32:
        raise DataError(f"{path} is damaged: its checksum differs; {AGAIN}")
    shard = open_shard(path, two_inputs)
    if len(shard) != meta.rows:
        raise DataError(f"{path} is damaged: it has {len(shard):,} rows, not {meta.rows:,}; {AGAIN}")
    return shard


def checksum(path: Path) -> int:
    """The CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            value = zlib.crc32(block, value)
    return value


def write_meta(root: Path, meta: Meta) -> None:
    """Write `meta.json`, with which a directory is finished. Raises `OutputError`."""
    write_json(root / META_FILE, meta.to_dict())


def read_meta(root: Path) -> Meta:
    """Read `meta.json`.

    Raises:
        DataError: it is missing or damaged.
    """
    path = root / META_FILE
    if not path.is_file():
        if (root / OPTIONS_FILE).is_file():
            raise DataError(f"{root} is not finished; run the same secateur longrange prepare again, it goes on")
        raise DataError(f"{root} holds no prepared data; make them with secateur longrange prepare")
    try:
        meta = TypeAdapter(Meta).validate_python(read_json(path))
    except (ValidationError, InputError) as error:
        raise DataError(f"{path} is damaged; {AGAIN}") from error
    task = TASKS[meta.task]
    fixed = (task.vocab_size, task.num_classes, task.two_inputs)
    rows = {split: sum(shard.rows for shard in shards) for split, shards in meta.shards.items()}
    if fixed != (meta.vocab_size, meta.num_classes, meta.two_inputs) or rows != meta.counts or set(rows) != set(SPLITS):
        raise DataError(f"{path} is damaged: its figures do not fit together; {AGAIN}")
    return meta
