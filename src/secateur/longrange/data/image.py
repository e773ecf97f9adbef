"""CIFAR-10 as grey bytes, row by row: from the hub, or the published batches, binary or of Python.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError
from secateur.longrange.data.config import PICTURE, TASKS, TaskSettings
from secateur.longrange.data.rows import Row, SplitName
from secateur.longrange.data.source import (
    HubTable,
    Table,
    Tables,
    find_directory,
    identity_of,
    require_files,
    unknown,
)

REPOSITORY = "uoft-cs/cifar10"
REMEDY = (
    "download cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it and give its "
    "directory by --from"
)

Pixels: TypeAlias = NDArray[np.uint8]

_LARGEST_BATCH = 256 * 2**20
_DAMAGED_PICKLE = (
    pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError, MemoryError,
    OverflowError, RecursionError,
)  # fmt: skip


def open_image(settings: TaskSettings) -> Tables:
    """The splits of CIFAR-10.

    Raises:
        DataError: the directory holds none of the published formats.
    """
    if settings.from_directory is None:
        tables: dict[SplitName, Table] = {
            "train": HubTable(REPOSITORY, "train", _hub_row, ("img", "label"), REMEDY),
            "test": HubTable(REPOSITORY, "test", _hub_row, ("img", "label"), REMEDY),
        }
        return Tables(tables, settings, f"hub:{REPOSITORY}")
    for suffix, read, below in (
        (".bin", read_binary_batch, "cifar-10-batches-bin"),
        ("", read_python_batch, "cifar-10-batches-py"),
    ):
        names = [f"data_batch_{number}{suffix}" for number in range(1, 6)]
        directory = find_directory(settings.from_directory, names, (below,))
        if directory is not None:
            *train, test = require_files(directory, [*names, f"test_batch{suffix}"])
            tables = {"train": Batches(tuple(train), read), "test": Batches((test,), read)}
            return Tables(tables, settings, identity_of(directory, [*train, test]))
    raise unknown(settings.from_directory, "data_batch_1.bin or data_batch_1 of CIFAR-10", REMEDY)


@dataclass(frozen=True)
class Batches:
    """Batch files, one of them in memory at a time.

    Attributes:
        files: in order.
        read_batch: gives a file's labels, (pictures,), and its red, green and blue, (pictures, 3 · 1024).
    """

    files: tuple[Path, ...]
    read_batch: Callable[[Path], tuple[Pixels, Pixels]]

    def __len__(self) -> int:
        return sum(self._sizes)

    def read(self, chosen: NDArray[np.int64]) -> Iterator[Row]:
        first = 0
        for file, size in zip(self.files, self._sizes, strict=True):
            numbers = chosen[(chosen >= first) & (chosen < first + size)] - first
            first += size
            if not len(numbers):
                continue
            labels, pixels = self.read_batch(file)
            for number in numbers:
                yield picture_row(pixels[number].reshape(3, PICTURE), int(labels[number]), str(file))

    @cached_property
    def _sizes(self) -> list[int]:
        return [len(self.read_batch(file)[0]) for file in self.files]


def picture_row(colours: Pixels, label: int, place: str) -> Row:
    """Red, green and blue, (3, 1024), as grey tokens: 0.299 R + 0.587 G + 0.114 B, rounded, plus 1.

    Raises:
        DataError: there is no such class.
    """
    if not 0 <= label < TASKS["image"].num_classes:
        raise DataError(f"{place} is damaged: a label is {label}, not 0 to 9; unpack the published archive again")
    red, green, blue = colours.astype(np.uint32)
    grey = (299 * red + 587 * green + 114 * blue + 500) // 1000
    return Row(((grey + 1).astype(np.uint16),), label)


def read_binary_batch(path: Path) -> tuple[Pixels, Pixels]:
    """A binary batch, memory-mapped: records of a label and 3072 pixels. Raises `DataError`."""
    size, record = path.stat().st_size, 1 + 3 * PICTURE
    if size == 0 or size % record:
        raise DataError(
            f"{path} is damaged: {size:,} bytes are no whole number of pictures; unpack the published archive again"
        )
    records = np.memmap(path, np.uint8, mode="r").reshape(-1, record)
    return records[:, 0], records[:, 1:]


def read_python_batch(path: Path) -> tuple[Pixels, Pixels]:
    """A Python batch: a pickled dictionary with `labels` and `data`; nothing in it is run. Raises `DataError`."""
    damaged = f"{path} is damaged or no batch of CIFAR-10"
    if path.stat().st_size > _LARGEST_BATCH:
        raise DataError(f"{damaged}: it is too large; unpack the published archive again")
    try:
        batch = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        labels = np.array([int(label) for label in fields["labels"]], np.int64)
        pixels = np.frombuffer(fields["data"].content, np.uint8).reshape(len(labels), 3 * PICTURE)
    except _DAMAGED_PICKLE as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{damaged} ({reason}); unpack the published archive again") from error
    if not len(labels) or labels.min() < 0 or labels.max() > 255:
        raise DataError(f"{damaged}: its labels are none; unpack the published archive again")
    return labels.astype(np.uint8), pixels


class _Bytes:
    """Stands in for an array while unpickling and keeps only its bytes; NumPy itself reads no pickle."""

    content = b""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        # An array's state is (version, shape, dtype, Fortran order, bytes); a dtype's is of no interest.
        if isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], bytes):
            self.content = state[4]


def _text_to_bytes(text: str, _: str) -> bytes:
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows arrays, as bytes, and plain values; everything else is refused."""

    _known: dict[tuple[str, str], Any] = {  # noqa: RUF012
        ("numpy", "ndarray"): _Bytes,
        ("numpy", "dtype"): _Bytes,
        ("numpy.core.multiarray", "_reconstruct"): _Bytes,
        ("numpy._core.multiarray", "_reconstruct"): _Bytes,
        ("_codecs", "encode"): _text_to_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not loaded")
        return self._known[module, name]


def _hub_row(row: dict[str, Any]) -> Row:
    colours = np.asarray(row["img"].convert("RGB"), np.uint8)
    if colours.shape != (32, 32, 3):
        raise DataError(f"{REPOSITORY} on the hub holds a picture that is not 32×32; {REMEDY}")
    return picture_row(colours.reshape(PICTURE, 3).T, int(row["label"]), REPOSITORY)
