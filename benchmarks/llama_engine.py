"""llama.cpp in this process, by the C interface of the library in the package xllamacpp: perplexity and speed.

The package's server gives probabilities token by token, which takes minutes for a text.
"""

import ctypes
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.exporting.ggml import library

# Of structs that are handed over by value the beginning is written to; the rest is as the library fills it. What is
# given beyond a struct's end lies unread on the stack.
LARGER_THAN_ANY = 1024


class ContextParams(ctypes.Structure):
    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("others", ctypes.c_char * LARGER_THAN_ANY),
    )


class ModelParams(ctypes.Structure):
    _fields_ = (("all", ctypes.c_char * LARGER_THAN_ANY),)


class Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.c_void_p),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.c_void_p),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
SILENT = LOG(lambda level, text, data: None)


class LlamaCpp:
    """A GGUF file, loaded by llama.cpp on the CPU.

    Args:
        file: it.
        context: tokens of a window at most.
        threads: that compute.
    """

    def __init__(self, file: Path, context: int = 512, threads: int = 2) -> None:
        self._library = _declared(library())
        self._library.llama_log_set(SILENT, None)
        self._library.llama_backend_init()
        params = self._library.llama_model_default_params()
        self._model = self._library.llama_model_load_from_file(str(file).encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {file}")
        settings = self._library.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = context
        self._context = self._library.llama_init_from_model(self._model, settings)
        self._library.llama_set_n_threads(self._context, threads, threads)
        vocabulary = self._library.llama_model_get_vocab(self._model)
        self._rows = self._library.llama_vocab_n_tokens(vocabulary)

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *_: object) -> None:
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)

    def log_perplexity(self, windows: Tensor) -> float:
        """The mean loss over the tokens of windows (windows, seq) but for the first of each, in nats."""
        losses = []
        for window in windows:
            self._forget()
            logits = torch.from_numpy(self._logits(window.tolist()))[:-1]  # (seq - 1, vocabulary)
            losses.append(torch.nn.functional.cross_entropy(logits, window[1:]).item())
        return statistics.fmean(losses)

    def perplexity(self, windows: Tensor) -> float:
        """e to the mean loss; see `log_perplexity`."""
        return math.exp(self.log_perplexity(windows))

    def decode_rates(self, prompt: Sequence[int], new_tokens: int, repeats: int) -> Iterator[float]:
        """Tokens per second of writing on, once for each repeat, each time after the same prompt."""
        for _ in range(repeats):
            self._forget()
            token = self._logits(list(prompt))[-1].argmax()
            begun = time.perf_counter()
            for _ in range(new_tokens):
                token = self._logits([int(token)], all_positions=False)[-1].argmax()
            yield new_tokens / (time.perf_counter() - begun)

    def _forget(self) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

    def _logits(self, tokens: list[int], all_positions: bool = True) -> np.ndarray:
        """Logits after each token, or the last, (positions, vocabulary); valid until the next call."""
        given = np.array(tokens, np.int32)
        wanted = np.zeros(len(tokens), np.int8)
        wanted[slice(None) if all_positions else -1] = 1
        batch = Batch(n_tokens=len(tokens), token=given.ctypes.data, logits=wanted.ctypes.data)
        status = self._library.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama.cpp's decode ended with {status}")
        found = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, (int(wanted.sum()), self._rows))


def _declared(found: Any) -> Any:
    pointer = ctypes.c_void_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "llama_log_set": (None, [LOG, pointer]),
        "llama_backend_init": (None, []),
        "llama_model_default_params": (ModelParams, []),
        "llama_context_default_params": (ContextParams, []),
        "llama_model_load_from_file": (pointer, [ctypes.c_char_p, ModelParams]),
        "llama_init_from_model": (pointer, [pointer, ContextParams]),
        "llama_set_n_threads": (None, [pointer, ctypes.c_int32, ctypes.c_int32]),
        "llama_model_get_vocab": (pointer, [pointer]),
        "llama_vocab_n_tokens": (ctypes.c_int32, [pointer]),
        "llama_get_memory": (pointer, [pointer]),
        "llama_memory_clear": (None, [pointer, ctypes.c_bool]),
        "llama_decode": (ctypes.c_int32, [pointer, Batch]),
        "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [pointer]),
        "llama_free": (None, [pointer]),
        "llama_model_free": (None, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found
