"""What the runners share: one line of JSON in, one line of JSON out.

A runner is executed with the Python of its engine's environment and knows nothing of secateur. It is asked to

    open   a model, in a folder for what it makes of it:  {"do": "open", "model": DIR, "work": DIR, ...}
    read   prompts, token ids each, and write on:         {"do": "read", "prompts": [[...]], "new_tokens": 32}
    time   one prompt:                                    {"do": "time", "prompt": [...], "new_tokens": 64}

and answers with what the methods of its `Engine` give, or with {"error": message}.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Engine(Protocol):
    """A model opened in an engine."""

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` tokens after the prompt, the most probable each time, the end of text among them."""

    def log_probabilities(self, prompt: Sequence[int]) -> list[float]:
        """Of each token of the prompt but the first, after those before it."""


def serve(version: Callable[[], str], engine: Callable[..., Engine]) -> None:
    """Answer until the input ends. What engines print goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    opened: Engine | None = None
    for line in sys.stdin:
        job = json.loads(line)
        try:
            match job.pop("do"):
                case "version":
                    answer: dict[str, Any] = {"version": version()}
                case "open":
                    opened = engine(**job)
                    answer = {"opens": True}
                case "read":
                    assert opened is not None
                    answer = read(opened, job["prompts"], job["new_tokens"])
                case "time":
                    assert opened is not None
                    answer = {"tokens_per_second": rate(opened, job["prompt"], job["new_tokens"])}
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is what is asked for
            traceback.print_exc()
            message = (str(error).splitlines() or [""])[0]
            answer = {"error": f"{type(error).__name__}: {message[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


def read(engine: Engine, prompts: Sequence[Sequence[int]], new_tokens: int) -> dict[str, Any]:
    return {
        "tokens": [engine.greedy(prompt, new_tokens) for prompt in prompts],
        "log_probabilities": [engine.log_probabilities(prompt) for prompt in prompts],
    }


def rate(engine: Engine, prompt: Sequence[int], new_tokens: int) -> float:
    """New tokens per second, the reading of the prompt included."""
    start = time.perf_counter()
    written = engine.greedy(prompt, new_tokens)
    assert len(written) == new_tokens
    return new_tokens / (time.perf_counter() - start)
