"""Python objects as data: texts, rows, data sets of `datasets`, streams of it, and tokens.

An option that names a text takes them as well. What becomes of one is a name, "400 texts in memory", that holds the
object: settings and results that are written hold the name.
"""

import hashlib
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import torch
from pydantic import PlainValidator
from torch import Tensor

from secateur.data.columns import columns_of, columns_of_row, rows_to_content
from secateur.data.corpus import Answered, content_fingerprint
from secateur.data.lazy import Item, Rows, in_memory
from secateur.data.options import DataOptions
from secateur.data.reading import RawRow, characters_of
from secateur.errors import DataError, InputError

if TYPE_CHECKING:
    import datasets

# What may stand where a text is wanted: a named corpus, a file, sources with shares, texts, rows, or tokens.
Data: TypeAlias = (
    "str | Path | Mapping[str | Path, float] | Sequence[str] | Sequence[Mapping[str, Any]] | datasets.Dataset | "
    "datasets.IterableDataset | Tensor"
)

_FIRST = 64  # rows of a stream that tell it from another


class InMemory(str):
    """The name of data that is an object. `content` is the object."""

    content: Any

    def __new__(cls, name: str, content: Any) -> "InMemory":
        named_object = super().__new__(cls, name)
        named_object.content = content
        return named_object

    def __reduce__(self) -> tuple[Any, ...]:
        return InMemory, (str(self), self.content)


def named(data: Any) -> str:
    """What a text is called: its name or path, or of an object an `InMemory`.

    Args:
        data: any of `Data`.

    Raises:
        ValueError: it is none of them, or empty.
    """
    if isinstance(data, str):
        if not data.strip():
            raise ValueError("an empty name is no text; give a named corpus or a file")
        return data
    if isinstance(data, Path):
        return str(data)
    if isinstance(data, Tensor):
        return InMemory(_named_tokens(data), data)
    if _is(data, "DatasetDict") or _is(data, "IterableDatasetDict"):
        raise ValueError(f"a data set of several splits is no text; choose one of {', '.join(map(repr, data))}")
    if _is(data, "IterableDataset"):
        return InMemory("a stream of rows", data)
    if _is(data, "Dataset"):
        return InMemory(f"{_some(len(data), 'row')} in memory", data)
    if isinstance(data, Mapping):
        return _named_shares(data)
    if not isinstance(data, Sequence) or isinstance(data, bytes | bytearray):
        raise ValueError(
            f"a {type(data).__name__} is no text; give a name, a path, a list of texts or of rows, a datasets.Dataset, "
            "or a tensor of tokens"
        )
    for kind, what in ((str, "text"), (Mapping, "row")):
        if data and all(isinstance(item, kind) for item in data):
            return InMemory(f"{_some(len(data), what)} in memory", data)
    found = sorted({type(item).__name__ for item in data})
    raise ValueError(f"a list of {' and '.join(found)} is no text" if data else "a list without texts is no text")


DataName = Annotated[str, PlainValidator(named)]


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of several texts, with a number where objects would be called the same."""
    found: list[str] = []
    for name in names:
        number = sum(other == name or other.startswith(f"{name}, ") for other in found) + 1
        if isinstance(name, InMemory) and number > 1:
            name = InMemory(f"{name}, {number}", name.content)
        found.append(name)
    return found


@dataclass(frozen=True)
class ObjectRows(Rows[Item]):
    """Those of a `datasets.Dataset`.

    Attributes:
        dataset: the data set.
        name: what messages call it.
    """

    dataset: Any = None
    name: str = ""

    def raw(self) -> Iterator[RawRow]:
        """As `Rows.raw`."""
        run = range(self.start, self.start + len(self))
        wanted = [column for column in self.dataset.column_names if column in self.columns.wanted]
        rows = self.dataset.with_format(None).select_columns(wanted).select(run)
        for number, row in enumerate(rows, start=self.start + 1):
            yield RawRow(number, characters_of(row), partial(_same, row))

    def content(self, row: RawRow) -> Item:
        """As `Rows.content`."""
        return self.columns.read(row.read(), self.name, f"row {row.number:,}")  # type: ignore[return-value]

    def count(self) -> int:
        """As `Rows.count`."""
        return len(self.dataset)

    @property
    def fingerprint(self) -> str:
        """SHA-256 that follows the content."""
        told = f"{self.dataset._fingerprint} {self.start} {self.stop} {self.columns}"
        return hashlib.sha256(told.encode()).hexdigest()


@dataclass(frozen=True)
class RowStream(ObjectRows[Item]):
    """Those of a `datasets.IterableDataset`, read from its beginning as far as they are wanted."""

    def raw(self) -> Iterator[RawRow]:
        """As `Rows.raw`."""
        for number, row in enumerate(self.dataset, start=1):
            yield RawRow(number, characters_of(row), partial(_same, row))

    def count(self) -> int:
        """A stream does not tell: `InputError`."""
        raise InputError(f"{self.name} has no end that is known; say how much of it to take")

    def require_limit(self, limit: int | None, option: str) -> int:
        """The limit. Raises `InputError` where there is none."""
        if limit is None:
            raise InputError(f"{self.name} has no end that is known; say how much of it to take with {option}")
        return limit

    @property
    def fingerprint(self) -> str:
        """SHA-256 that follows the first rows."""
        first = list(islice(self, _FIRST))
        texts = [item for item in first if isinstance(item, str)]
        return content_fingerprint(texts, [item for item in first if not isinstance(item, str)])


def opened(data: InMemory, options: DataOptions) -> tuple[Collection[str], Collection[Answered]]:
    """Documents and examples of an object, one of the two empty. Raises `DataError`."""
    content = data.content
    if _is(content, "IterableDataset"):
        first = next(iter(content), None)
        if first is None:
            return [], []
        columns = columns_of_row(first, str(data), "row 1", options)
        if columns.answered:
            return [], RowStream[Answered](columns, dataset=content, name=str(data))
        return RowStream[str](columns, dataset=content, name=str(data)), []
    if _is(content, "Dataset"):
        if not len(content):
            return [], []
        columns = columns_of(content.column_names, str(data), options)
        if columns.answered:
            return [], in_memory(ObjectRows[Answered](columns, dataset=content, name=str(data)))
        return in_memory(ObjectRows[str](columns, dataset=content, name=str(data))), []
    if isinstance(content[0], str):
        return list(content), []
    return rows_to_content(content, str(data), options)


def token_rows(data: Tensor, name: str) -> Tensor:
    """Tokens that were given, as int64 on the CPU. Raises `DataError` where they are none."""
    tokens = data.detach().cpu().long()  # first, since PyTorch compares no unsigned integers
    if tokens.numel() == 0 or int(tokens.min()) < 0:
        raise DataError(f"{name}: they must be at least one, and none below 0")
    return tokens


def _is(data: Any, kind: str) -> bool:
    """Whether an object is of a class of `datasets`, which is not imported for that."""
    module = sys.modules.get("datasets")
    return module is not None and isinstance(data, getattr(module, kind))


def _named_tokens(tokens: Tensor) -> str:
    integers = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
    if not integers or tokens.dim() not in (1, 2) or tokens.numel() == 0:
        raise ValueError(
            f"a tensor of {str(tokens.dtype).removeprefix('torch.')}, {tuple(tokens.shape)}, is no text; tokens are "
            "integers, (tokens,) or (windows, length)"
        )
    if tokens.is_meta or tokens.layout != torch.strided:
        raise ValueError("a tensor on the device meta or of a sparse layout is no text; give tokens that are in memory")
    if tokens.dim() == 1:
        return f"{_some(len(tokens), 'token')} in memory"
    return f"{_some(tokens.shape[0], 'window')} of {_some(tokens.shape[1], 'token')} in memory"


def _named_shares(shares: Mapping[Any, Any]) -> str:
    if not shares or not all(isinstance(name, str | Path) and _is_number(share) for name, share in shares.items()):
        raise ValueError("a mapping is no text, unless of names or paths to shares: {'a.jsonl': 0.7, 'b.txt': 0.3}")
    wrong = next((share for share in shares.values() if not 0 < share < math.inf), None)
    if wrong is not None:
        raise ValueError(f"a share of {wrong} is none; shares are numbers above 0")
    return ",".join(f"{name}:{Decimal(str(share)):f}" for name, share in shares.items())


def _is_number(share: Any) -> bool:
    return isinstance(share, int | float) and not isinstance(share, bool)


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _same(row: Any) -> Any:
    return row
