"""A GGUF file measured in llama.cpp itself, by the C interface of the library in the package xllamacpp.

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
from transformers import PreTrainedTokenizerBase

from secateur.console import track
from secateur.errors import ModelError
from secateur.evaluation.config import EvaluateConfig
from secateur.evaluation.evaluate import Evaluation, corpus_windows, load_texts
from secateur.evaluation.perplexity import first_scored_of
from secateur.evaluation.speed import random_prompt
from secateur.exporting.ggml import library

ENGINE = "llama.cpp"
TOKENS_AT_ONCE = 512  # whose logits are in memory together
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
        threads: that compute; by default as many as PyTorch has.

    Raises:
        InputError: the package xllamacpp is not installed.
        ModelError: llama.cpp does not load the file.
    """

    def __init__(self, file: Path, context: int = 512, threads: int | None = None) -> None:
        self._file, self._library = file, _declared(library())
        self._library.llama_log_set(SILENT, None)
        self._library.llama_backend_init()
        params = self._library.llama_model_default_params()
        self._model = self._library.llama_model_load_from_file(str(file).encode(), params)
        if not self._model:
            raise ModelError(
                f"the llama.cpp of the package xllamacpp does not load {file}: it is damaged, or of a kind that it "
                "does not know; write it anew"
            )
        settings = self._library.llama_context_default_params()
        settings.n_ctx = context
        settings.n_batch = settings.n_ubatch = self._at_once = min(context, TOKENS_AT_ONCE)
        self._context = self._library.llama_init_from_model(self._model, settings)
        if not self._context:
            self._library.llama_model_free(self._model)
            raise ModelError(f"the llama.cpp of the package xllamacpp has no room for {context:,} tokens of {file}")
        threads = threads or torch.get_num_threads()
        self._library.llama_set_n_threads(self._context, threads, threads)
        vocabulary = self._library.llama_model_get_vocab(self._model)
        self.vocabulary: int = self._library.llama_vocab_n_tokens(vocabulary)

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *_: object) -> None:
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)

    def perplexity(self, windows: Tensor, *, stride: int | None = None, description: str = "perplexity") -> float:
        """As `secateur.evaluation.perplexity` of a model. `windows`: (windows, seqlen)."""
        first_scored = first_scored_of(windows, stride)
        losses, scored = [], 0
        for number, window in enumerate(track(windows, description)):
            first = first_scored if number else 1
            losses.append(self._loss(window, first))
            scored += len(window) - first
        return torch.tensor(math.fsum(losses) / scored, dtype=torch.float64).exp().item()

    def seconds(self, prompt: Sequence[int], new_tokens: int, repeats: int) -> Iterator[tuple[float, float]]:
        """The seconds of reading a prompt and of writing `new_tokens` after it, once for each repeat."""
        for _ in range(repeats):
            self._forget()
            begun = time.perf_counter()
            token = self._last_logits(prompt).argmax()
            read = time.perf_counter()
            for _ in range(new_tokens):
                token = self._last_logits([int(token)]).argmax()
            yield read - begun, time.perf_counter() - read

    def _loss(self, window: Tensor, first: int) -> float:
        """The summed loss of a window's tokens from `first` on, in nats."""
        self._forget()
        losses = []
        for start in range(0, len(window), self._at_once):
            part = window[start : start + self._at_once]
            logits = torch.from_numpy(self._logits(part.tolist(), all_positions=True))  # (tokens, vocabulary)
            begin, end = max(first - 1 - start, 0), min(len(part), len(window) - 1 - start)
            if begin < end:
                following = window[start + begin + 1 : start + end + 1]
                losses.append(torch.nn.functional.cross_entropy(logits[begin:end], following, reduction="sum").item())
        return math.fsum(losses)

    def _forget(self) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

    def _last_logits(self, tokens: Sequence[int]) -> np.ndarray:
        for start in range(0, len(tokens), self._at_once):
            logits = self._logits(tokens[start : start + self._at_once], all_positions=False)
        return logits[-1]

    def _logits(self, tokens: Sequence[int], all_positions: bool) -> np.ndarray:
        """Logits after each token, or the last, (positions, vocabulary); valid until the next call."""
        given = np.array(tokens, np.int32)
        wanted = np.zeros(len(tokens), np.int8)
        wanted[slice(None) if all_positions else -1] = 1
        batch = Batch(n_tokens=len(tokens), token=given.ctypes.data, logits=wanted.ctypes.data)
        status = self._library.llama_decode(self._context, batch)
        if status:
            raise ModelError(f"the llama.cpp of the package xllamacpp does not run {self._file}: it ends with {status}")
        found = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, (int(wanted.sum()), self.vocabulary))


def evaluate_gguf(
    file: Path, tokenizer: PreTrainedTokenizerBase, config: EvaluateConfig, *, name: str, **figures: Any
) -> Evaluation:
    """Measure perplexity on each text and, if the config says so, the speed of a GGUF file in llama.cpp on the CPU.

    Args:
        file: it.
        tokenizer: the exported model's.
        config: what to measure; tasks are not asked.
        name: what tables call it.
        figures: fields of `Evaluation` that stand in the export's record: `parameters`, `dtype` and so on.

    Raises:
        DataError: a text cannot be found or is shorter than one window.
        InputError: the package xllamacpp is not installed.
        ModelError: llama.cpp does not run the file.
    """
    corpora = load_texts(config)
    windows = corpus_windows(tokenizer, corpora, config)
    context = max(config.seqlen, config.prompt_tokens + config.new_tokens if config.speed else 0)
    with LlamaCpp(file, context) as engine:
        perplexity = {
            corpus: engine.perplexity(tokens, stride=config.stride, description=f"{name}: perplexity on {corpus}")
            for corpus, tokens in windows.items()
        }
        evaluation = Evaluation(
            name=name,
            perplexity=perplexity,
            windows={corpus: len(tokens) for corpus, tokens in windows.items()},
            corpora={corpus.name: corpus.description for corpus in corpora},
            sources={corpus.name: corpus.source for corpus in corpora},
            seqlen=config.seqlen,
            stride=config.stride,
            device="cpu",
            engine=ENGINE,
            size_bytes=file.stat().st_size,
            **figures,
        )
        if config.speed:
            prompt = random_prompt(engine.vocabulary, config.prompt_tokens, config.seed)[0].tolist()
            for _ in engine.seconds(prompt, min(config.new_tokens, 2), 1):
                pass
            found, deadline = [], time.perf_counter() + config.max_seconds
            for seconds in engine.seconds(prompt, config.new_tokens, config.repeats):
                found.append(seconds)
                if time.perf_counter() > deadline:
                    break
            reading, writing = zip(*found, strict=True)
            evaluation.prefill_tokens_per_second = config.prompt_tokens / statistics.median(reading)
            evaluation.decode_tokens_per_second = config.new_tokens / statistics.median(writing)
    return evaluation


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
