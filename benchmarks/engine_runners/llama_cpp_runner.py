"""llama.cpp, as built in the package xllamacpp."""

import json
import os
import urllib.request
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import xllamacpp
from runner import serve


class LlamaCpp:
    def __init__(self, model: str, work: str, quick: bool = True) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = model
        params.n_ctx, params.n_parallel = 256, 1
        threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.warmup, params.verbosity = False, 0
        self.server = xllamacpp.Server(params)
        self.vocabulary = self.ask("/v1/models")["data"][0]["meta"]["n_vocab"]
        self.visible = self.ask("/tokenize", {"content": "a", "add_special": False})["tokens"][-1]

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        settings = {"n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        return self.ask("/completion", {"prompt": list(prompt), "return_tokens": True, **settings})["tokens"]

    def log_probabilities(self, prompt: Sequence[int]) -> list[float]:
        return [self.after(prompt[:place], prompt[place]) for place in range(1, len(prompt))]

    def after(self, prompt: Sequence[int], token: int) -> float:
        # The server tells no probabilities of a token that is half a character, so that an "a" is made to come next;
        # the probabilities are those before that.
        settings = {"n_predict": 1, "temperature": 0, "logit_bias": [[self.visible, 1e4]]}
        for most in (1000, self.vocabulary):
            most = min(most, self.vocabulary)
            answer = self.ask("/completion", {"prompt": list(prompt), "n_probs": most, **settings})
            for each in answer["completion_probabilities"][0]["top_logprobs"]:
                if each["id"] == token:
                    return each["logprob"]
        raise ValueError(f"no probability of token {token}")

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.server.listening_address}{path}", content, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)


if __name__ == "__main__":
    serve(lambda: version("xllamacpp"), LlamaCpp)
