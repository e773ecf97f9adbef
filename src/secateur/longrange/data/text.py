"""IMDB reviews by bytes, liked or not: from the hub, the folders of aclImdb, or CSV.

Maas et al. 2011, "Learning Word Vectors for Sentiment Analysis".
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError
from secateur.longrange.data.config import TaskSettings
from secateur.longrange.data.rows import Row, SplitName, byte_tokens
from secateur.longrange.data.source import (
    HubTable,
    Table,
    Tables,
    find_directory,
    identity_of,
    picked,
    unknown,
)

REPOSITORY = "stanfordnlp/imdb"
REMEDY = (
    "download https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz, unpack it and give its directory by "
    "--from"
)

_FOLDERS = ("neg", "pos")  # in the order of the classes
_TEXT_COLUMNS, _LABEL_COLUMNS = ("review", "text"), ("sentiment", "label")
_LABELS = {"negative": 0, "neg": 0, "0": 0, "positive": 1, "pos": 1, "1": 1}


def open_text(settings: TaskSettings) -> Tables:
    """The splits of IMDB. CSV files are `train.csv` with perhaps `dev.csv` and `test.csv`, or one of any name.

    Raises:
        DataError: the directory holds none of the published formats.
    """
    root, longest = settings.from_directory, settings.max_length
    if root is None:
        tables: dict[SplitName, Table] = {
            "train": _hub_table("train", longest),
            "test": _hub_table("test", longest),
        }
        return Tables(tables, settings, f"hub:{REPOSITORY}")
    directory = find_directory(root, [f"train/{_FOLDERS[0]}", f"train/{_FOLDERS[1]}"], ("aclImdb",))
    if directory is not None:
        folders = {split: ReviewFolders(directory / split, longest) for split in ("train", "test")}
        files = [file for folder in folders.values() for file in folder.files]
        return Tables({**folders}, settings, identity_of(directory, files))  # type: ignore[dict-item]
    csv_files = _csv_files(root)
    if not csv_files:
        raise unknown(root, "train/pos and train/neg of aclImdb, nor train.csv or a single CSV", REMEDY)
    tables = {split: ReviewTable(file, longest) for split, file in csv_files.items()}
    return Tables(tables, settings, identity_of(root, csv_files.values()))


def _csv_files(root: Path) -> dict[SplitName, Path]:
    splits: tuple[SplitName, ...] = ("train", "dev", "test")
    named = {split: root / f"{split}.csv" for split in splits if (root / f"{split}.csv").is_file()}
    if "train" in named:
        return named
    lone = sorted(root.glob("*.csv"))
    return {"train": lone[0]} if len(lone) == 1 else {}


def _hub_table(split: str, max_length: int) -> HubTable:
    def to_row(row: dict[str, Any]) -> Row:
        return Row((byte_tokens(str(row["text"]).encode(), max_length),), _class_of(row["label"], REPOSITORY))

    return HubTable(REPOSITORY, split, to_row, ("text", "label"), REMEDY)


def _class_of(label: object, place: str) -> int:
    known = _LABELS.get(str(label).strip().lower())
    if known is None:
        raise DataError(f"{place}: the label is {str(label)[:40]!r}; it must be positive or negative, or 1 or 0")
    return known


@dataclass(frozen=True)
class ReviewFolders:
    """A split as folders `neg` and `pos` with a text file per review.

    Attributes:
        directory: that holds both.
        max_length: bytes kept.
    """

    directory: Path
    max_length: int

    def __len__(self) -> int:
        return len(self.files)

    def read(self, chosen: NDArray[np.int64]) -> Iterator[Row]:
        for number in chosen:
            file = self.files[number]
            with file.open("rb") as content:
                tokens = byte_tokens(content.read(self.max_length), self.max_length)
            yield Row((tokens,), _FOLDERS.index(file.parent.name))

    @cached_property
    def files(self) -> list[Path]:
        """All reviews, the negative ones first, by name. Raises `DataError` where a folder has none."""
        found = []
        for folder in _FOLDERS:
            reviews = sorted((self.directory / folder).glob("*.txt"))
            if not reviews:
                raise DataError(f"{self.directory / folder} holds no .txt files; unpack the published archive again")
            found += reviews
        return found


@dataclass(frozen=True)
class ReviewTable:
    """A split as a CSV file with the columns review or text, and sentiment or label.

    Attributes:
        path: of the file.
        max_length: bytes kept.
    """

    path: Path
    max_length: int

    def __len__(self) -> int:
        return self._rows

    def read(self, chosen: NDArray[np.int64]) -> Iterator[Row]:
        for _, (place, text, label) in picked(self._records(), chosen):
            yield Row((byte_tokens(text.encode(), self.max_length),), _class_of(label, place))

    @cached_property
    def _rows(self) -> int:
        return sum(1 for _ in self._records())

    def _records(self) -> Iterator[tuple[str, str, str]]:
        """Where a record stands, its text and its label."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file)
                header = [name.strip().lower() for name in next(reader, [])]
                text, label = (self._column(header, names) for names in (_TEXT_COLUMNS, _LABEL_COLUMNS))
                for record in reader:
                    place = f"{self.path}, line {reader.line_num:,}"
                    if len(record) != len(header):
                        raise DataError(f"{place}: {len(record)} columns where the header has {len(header)}; mend it")
                    yield place, record[text], record[label]
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path} is not UTF-8 ({error.reason}); convert it first") from error
        except csv.Error as error:
            raise DataError(f"{self.path} is no readable CSV: {error}") from error

    def _column(self, header: list[str], names: tuple[str, ...]) -> int:
        for name in names:
            if name in header:
                return header.index(name)
        listed = ", ".join(repr(name[:40]) for name in header[:6]) or "no columns"
        raise DataError(f"{self.path} has {listed}; it needs a column {' or '.join(map(repr, names))}")
