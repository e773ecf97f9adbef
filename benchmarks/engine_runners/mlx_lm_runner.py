"""mlx-lm on the CPU."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model
from runner import serve


class MlxLm:
    def __init__(self, model: str, work: str, quick: bool = True) -> None:
        self.model, _ = load_model(Path(model), trust_remote_code=True)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        return [int(token) for token, _ in generate_step(mx.array(list(prompt)), self.model, max_tokens=count)]

    def log_probabilities(self, prompt: Sequence[int]) -> list[float]:
        logits = self.model(mx.array([list(prompt)]))[0].astype(mx.float32)
        all_tokens = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        return [all_tokens[place, token].item() for place, token in enumerate(prompt[1:])]


if __name__ == "__main__":
    serve(lambda: version("mlx-lm"), MlxLm)
