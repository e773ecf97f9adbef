"""llama.cpp, by the package xllamacpp: what it makes of an exported file."""

import json
import math
import os
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("xllamacpp")
import xllamacpp

MOST_PROBABLE = 1000


class LlamaCpp:
    """A GGUF file, loaded by llama.cpp."""

    def __init__(self, file: Path, context: int = 512) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel = context, 1
        params.cpuparams.n_threads = os.cpu_count() or 1
        params.warmup, params.verbosity = False, 0
        self.server = xllamacpp.Server(params)
        self.visible = self.tokens("a", special=False)[-1]

    def tokens(self, text: str, special: bool = True) -> list[int]:
        """Its own tokens of a text."""
        return self._ask("/tokenize", {"content": text, "add_special": special, "parse_special": special})["tokens"]

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that it writes on, the most probable each time."""
        settings = {"n_predict": count, "temperature": 0, "ignore_eos": True, "return_tokens": True}
        return self._ask("/completion", {"prompt": [int(token) for token in prompt], **settings})["tokens"]

    def next_log_probabilities(self, prompt: Sequence[int], most: int) -> dict[int, float]:
        """Log-probabilities of the `most` probable next tokens."""
        # The server tells no probabilities of a token that is half a character, so that an "a" is made to come next;
        # the probabilities are those before that.
        settings = {"n_predict": 1, "temperature": 0, "n_probs": most, "logit_bias": [[self.visible, 1e4]]}
        answer = self._ask("/completion", {"prompt": [int(token) for token in prompt], **settings})
        return {each["id"]: each["logprob"] for each in answer["completion_probabilities"][0]["top_logprobs"]}

    def perplexity(self, window: Sequence[int], first: int, vocabulary: int) -> float:
        """Of the tokens of a window from the position `first` on."""
        loss = 0.0
        for position in range(first, len(window)):
            before, token = list(window[:position]), int(window[position])
            probable = self.next_log_probabilities(before, min(MOST_PROBABLE, vocabulary))
            if token not in probable:
                probable = self.next_log_probabilities(before, vocabulary)
            loss -= probable[token]
        return math.exp(loss / (len(window) - first))

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.server.listening_address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.fixture
def llama_cpp() -> Callable[[Path], LlamaCpp]:
    return LlamaCpp


def log_probabilities(model: Any, prompt: Sequence[int]) -> torch.Tensor:
    """Transformers' log-probabilities of the next token, (vocabulary,), in float32."""
    with torch.no_grad():
        return model(torch.tensor([list(prompt)])).logits[0, -1].float().log_softmax(-1)
