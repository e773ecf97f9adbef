"""The header of a GGUF file, checked before anything it claims is believed.

The package `gguf` maps a file and follows its numbers: a count of 2⁶⁰ entries is counted through, and a tensor beyond
the end comes out short. Here each number is held against the bytes that are there before it is used.
"""

import contextlib
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from secateur.errors import ModelError
from secateur.models.json_file import shown

KIND = gguf.GGUFValueType
SCALARS = {
    KIND.UINT8: "B",
    KIND.INT8: "b",
    KIND.UINT16: "H",
    KIND.INT16: "h",
    KIND.UINT32: "I",
    KIND.INT32: "i",
    KIND.FLOAT32: "f",
    KIND.BOOL: "?",
    KIND.UINT64: "Q",
    KIND.INT64: "q",
    KIND.FLOAT64: "d",
}
VERSIONS = (2, 3)
# Far above what any model has, and low enough to be counted through at once.
MOST_KEYS, MOST_TENSORS, MOST_ENTRIES, LONGEST_STRING = 10_000, 100_000, 4_000_000, 1 << 24
LONGEST_NAME, MOST_DIMENSIONS = 200, 4


@dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor lies in the file.

    Attributes:
        shape: rows first.
        kind: its number format.
        offset: of its first byte in the file.
        size: in bytes.
    """

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    offset: int
    size: int


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says of itself: its keys with their values, and its tensors by name."""

    file: Path
    keys: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    def read(self, name: str) -> np.ndarray:
        """The weights of a tensor in float32, no longer quantised, with its shape (rows first)."""
        tensor = self.tensors[name]
        rows = np.memmap(self.file, np.uint8, "r", tensor.offset, (tensor.size,))
        block, block_bytes = gguf.GGML_QUANT_SIZES[tensor.kind]
        data = rows.reshape(*tensor.shape[:-1], tensor.shape[-1] // block * block_bytes)
        return gguf.dequantize(data, tensor.kind).reshape(tensor.shape)


def read_header(file: Path) -> GGUFHeader:
    """Read and check the header of a GGUF file.

    Raises:
        ModelError: the file is damaged, cut short, or claims more than it holds; it is big-endian, one part of
            several, or holds a number format that the package `gguf` does not read.
    """
    try:
        with file.open("rb") as stream, _mapped(stream.fileno()) as data:
            header = _Reader(data).header(file)
    except _Damaged as error:
        raise ModelError(f"{file} could not be loaded: {error}; download it again or restore it from its source") from (
            error
        )
    except OSError as error:
        raise ModelError(f"{file} could not be read: {error.strerror}") from error
    parts = header.keys.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise ModelError(
            f"{file} is one part of {parts}; join them first (llama.cpp's llama-gguf-split --merge) and name the result"
        )
    _require_readable(header)
    return header


class _Damaged(Exception):
    """What is wrong with the bytes."""


@contextlib.contextmanager
def _mapped(descriptor: int) -> Any:
    try:
        data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # an empty file
        raise _Damaged("it is empty") from error
    with data:
        yield data


class _Reader:
    """Goes through the bytes once, from the front."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def header(self, file: Path) -> GGUFHeader:
        if self.data[:4] != b"GGUF":
            raise _Damaged("it does not begin with GGUF's mark")
        self.position = 4
        version = self._number("I")
        if version & 0xFFFF == 0:
            raise ModelError(f"{file} could not be loaded: it is big-endian, and secateur reads little-endian files")
        if version not in VERSIONS:
            raise ModelError(f"{file} could not be loaded: it is of version {version}, and secateur reads 2 and 3")
        tensors = self._count("tensors", 24, MOST_TENSORS)
        entries = self._count("keys", 13, MOST_KEYS)
        keys: dict[str, Any] = {}
        for _ in range(entries):
            name = self._name("the name of a key")
            if name in keys:
                raise _Damaged(f"the key {name} stands there twice")
            keys[name] = self._value(name)
        listed = [self._tensor() for _ in range(tensors)]
        return GGUFHeader(file, keys, self._placed(listed, keys.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)))

    def _left(self) -> int:
        return len(self.data) - self.position

    def _numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        size = count * struct.calcsize("<" + code)
        if size > self._left():
            raise _Damaged("it ends within its header")
        values = struct.unpack_from(f"<{count}{code}", self.data, self.position)
        self.position += size
        return values

    def _number(self, code: str) -> Any:
        return self._numbers(code)[0]

    def _count(self, what: str, least_bytes: int, most: int) -> int:
        count = int(self._number("Q"))
        if count > most or count * least_bytes > self._left():
            raise _Damaged(f"it claims {count:,} {what}, which is more than it holds")
        return count

    def _string(self, what: str) -> str:
        length = self._count(f"bytes in {what}", 1, LONGEST_STRING)
        content = self.data[self.position : self.position + length]
        self.position += length
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise _Damaged(f"{what} is not UTF-8") from error

    def _name(self, what: str) -> str:
        name = self._string(what)
        if not name.isprintable() or len(name) > LONGEST_NAME:
            raise _Damaged(f"{what} is no name")
        return name

    def _value(self, name: str) -> Any:
        kind = self._kind(name)
        if kind is KIND.STRING:
            return self._string(name)
        if kind is not KIND.ARRAY:
            return self._number(SCALARS[kind])
        kind = self._kind(name)
        if kind is KIND.ARRAY:
            raise _Damaged(f"{name} is a list of lists")
        if kind is KIND.STRING:
            return [self._string(name) for _ in range(self._count(f"entries in {name}", 8, MOST_ENTRIES))]
        code = SCALARS[kind]
        return list(self._numbers(code, self._count(f"entries in {name}", struct.calcsize("<" + code), MOST_ENTRIES)))

    def _kind(self, name: str) -> gguf.GGUFValueType:
        number = self._number("I")
        try:
            return KIND(number)
        except ValueError as error:
            raise _Damaged(f"{name} is of the unknown type {number}") from error

    def _tensor(self) -> tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]:
        name = self._name("the name of a tensor")
        dimensions = self._number("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise _Damaged(f"{name} has {dimensions} dimensions")
        shape = tuple(reversed(self._numbers("Q", dimensions)))
        number, offset = self._number("I"), self._number("Q")
        try:
            kind = gguf.GGMLQuantizationType(number)
        except ValueError as error:
            raise _Damaged(f"{name} is of the unknown number format {number}") from error
        if not all(shape) or shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            raise _Damaged(f"{name} has the shape {shape}, which {kind.name} does not hold")
        return name, shape, kind, offset

    def _placed(
        self, listed: list[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]], alignment: Any
    ) -> dict[str, GGUFTensor]:
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise _Damaged(f"general.alignment is {shown(alignment)}")
        start = -(-self.position // alignment) * alignment
        tensors: dict[str, GGUFTensor] = {}
        for name, shape, kind, offset in listed:
            block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            size = math.prod(shape) // block * block_bytes
            if name in tensors:
                raise _Damaged(f"the tensor {name} stands there twice")
            if start + offset + size > len(self.data):
                raise _Damaged(
                    f"{name} would end at byte {start + offset + size:,} and the file at {len(self.data):,}; it is "
                    "cut short"
                )
            tensors[name] = GGUFTensor(shape, kind, start + offset, size)
        return tensors


def _require_readable(header: GGUFHeader) -> None:
    """Raise `ModelError` where a tensor's number format has no way back to floating point."""
    for name, tensor in header.tensors.items():
        block = np.zeros((1, gguf.GGML_QUANT_SIZES[tensor.kind][1]), np.uint8)
        try:
            gguf.dequantize(block, tensor.kind)
        except NotImplementedError as error:
            raise ModelError(
                f"{header.file} holds {name} in the number format {tensor.kind.name}, which the package gguf does not "
                "read; take a file in another format, or the original model's directory"
            ) from error
