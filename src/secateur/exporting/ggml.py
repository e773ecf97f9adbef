"""llama.cpp's own quantisers, by the C interface of the library in the package xllamacpp."""

import ctypes
import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import gguf
import numpy as np
import torch

from secateur.errors import InputError, ModelError

QUANT = gguf.GGMLQuantizationType
WITHOUT_LIBRARY = frozenset({QUANT.F32, QUANT.F16, QUANT.BF16, QUANT.Q8_0})  # the package gguf writes them
ROWS_AT_ONCE = 64


@cache
def library() -> ctypes.CDLL:
    """The shared library of the package xllamacpp.

    Raises:
        InputError: the package is not installed, or is one without llama.cpp's C interface.
    """
    try:
        found = ctypes.CDLL(str(importlib.import_module("xllamacpp.xllamacpp").__file__))
        quantize, validate = found.ggml_quantize_chunk, found.ggml_validate_row_data
    except ImportError as error:
        raise InputError(
            "formats below 8 bits are written by llama.cpp's own code, a package; run: pip install 'secateur[gguf]'"
        ) from error
    except (AttributeError, OSError) as error:
        raise InputError(
            "the package xllamacpp that is installed lacks llama.cpp's quantisers; run: pip install -U 'secateur[gguf]'"
        ) from error
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    quantize.argtypes = [ctypes.c_int, pointer, pointer, integer, integer, integer, pointer]
    quantize.restype = ctypes.c_size_t
    validate.argtypes = [ctypes.c_int, pointer, ctypes.c_size_t]
    validate.restype = ctypes.c_bool
    return found


def has_llama_cpp() -> bool:
    """Whether `library` is there."""
    try:
        library()
    except InputError:
        return False
    return True


def quantised(weights: np.ndarray, kind: gguf.GGMLQuantizationType, importance: np.ndarray | None) -> np.ndarray:
    """The bytes of a matrix in a format, (rows, bytes of a row) uint8.

    Args:
        weights: (rows, columns) float32, contiguous; the format's blocks divide the columns.
        kind: a format for which llama.cpp has a quantiser.
        importance: how much an error in each column weighs, (columns,) float32; all the same unless given.

    Raises:
        ModelError: llama.cpp does not take what comes out.
    """
    rows, columns = weights.shape
    found = np.empty(gguf.quant_shape_to_byte_shape(weights.shape, kind), np.uint8)
    weighing = None if importance is None else importance.ctypes.data

    def part(first: int) -> bool:
        given, to = weights[first : first + ROWS_AT_ONCE], found[first : first + ROWS_AT_ONCE]
        library().ggml_quantize_chunk(kind, given.ctypes.data, to.ctypes.data, 0, len(given), columns, weighing)
        return bool(library().ggml_validate_row_data(kind, to.ctypes.data, to.nbytes))

    # ctypes lets other threads run meanwhile, and rows do not depend on each other.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        valid: Sequence[bool] = list(threads.map(part, range(0, rows, ROWS_AT_ONCE)))
    if not all(valid):
        raise ModelError(f"rounding to {kind.name.lower()} gives scales that are not finite; export with dtype q8_0")
    return found
