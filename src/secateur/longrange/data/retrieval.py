"""Pairs of papers by bytes, does one cite the other: the ACL Anthology Network, from the files of the Long Range Arena.

Radev et al. 2013, "The ACL Anthology Network Corpus"; pairs as released with Tay et al. 2021.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError
from secateur.longrange.data.config import TaskSettings
from secateur.longrange.data.rows import Row, SplitName, byte_tokens
from secateur.longrange.data.source import (
    Table,
    Tables,
    find_directory,
    identity_of,
    picked,
    require_files,
    unknown,
)

REMEDY = (
    "download https://storage.googleapis.com/long-range-arena/lra_release.gz (see github.com/google-research/"
    "long-range-arena), unpack it and give the directory with new_aan_pairs.train.tsv by --from"
)

_FILES: dict[SplitName, str] = {
    "train": "new_aan_pairs.train.tsv",
    "dev": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
_BELOW = ("tsv_data", "lra_release", "lra_release/tsv_data", "lra_release/lra_release/tsv_data")
_FIELDS = 5  # label, id1, id2, text1, text2
_LONGEST_LINE = 64 * 2**20


def open_retrieval(settings: TaskSettings) -> Tables:
    """The splits of the pairs.

    Raises:
        DataError: no directory is given, or it does not hold the published files.
    """
    if settings.from_directory is None:
        raise DataError(f"the pairs of retrieval are on no hub; {REMEDY}")
    directory = find_directory(settings.from_directory, list(_FILES.values()), _BELOW)
    if directory is None:
        raise unknown(settings.from_directory, "new_aan_pairs.train.tsv", REMEDY)
    files = require_files(directory, _FILES.values())
    tables: dict[SplitName, Table] = {
        split: PairTable(file, settings.max_length) for split, file in zip(_FILES, files, strict=True)
    }
    return Tables(tables, settings, identity_of(directory, files))


@dataclass(frozen=True)
class PairTable:
    """A split as lines of label, two ids and two texts, with tabs between and no quoting.

    Attributes:
        path: of the file.
        max_length: bytes kept of each text.
    """

    path: Path
    max_length: int

    def __len__(self) -> int:
        return self._rows

    def read(self, chosen: NDArray[np.int64]) -> Iterator[Row]:
        for number, line in picked(self._lines(), chosen):
            yield self._row(line, number + 1)

    @cached_property
    def _rows(self) -> int:
        return sum(1 for _ in self._lines())

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    raise DataError(f"{self.path}, line {number:,} is longer than 64 MiB; this is no file of pairs")
                yield line

    def _row(self, line: bytes, number: int) -> Row:
        fields = line.rstrip(b"\r\n").split(b"\t")
        if len(fields) != _FIELDS:
            raise DataError(
                f"{self.path}, line {number:,}: {len(fields)} fields; it must be label, id1, id2, text1 and text2 with "
                "tabs between"
            )
        label = {b"0": 0, b"0.0": 0, b"1": 1, b"1.0": 1}.get(fields[0].strip())
        if label is None:
            raise DataError(f"{self.path}, line {number:,}: the label is {fields[0][:20]!r}; it must be 0 or 1")
        return Row((byte_tokens(fields[3], self.max_length), byte_tokens(fields[4], self.max_length)), label)
