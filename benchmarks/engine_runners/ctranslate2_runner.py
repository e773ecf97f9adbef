"""CTranslate2, converted by its own converter for Transformers' models."""

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.converters import TransformersConverter
from runner import serve


class CTranslate2:
    def __init__(self, model: str, work: str, quick: bool = True) -> None:
        converted = Path(work) / "ctranslate2"
        TransformersConverter(model, trust_remote_code=True).convert(str(converted), force=True)
        threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
        self.generator = ctranslate2.Generator(str(converted), compute_type="float32", intra_threads=threads)
        self.words = json.loads((converted / "vocabulary.json").read_text(encoding="utf-8"))

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        words = [self.words[token] for token in prompt]
        # No token ends the text: this one does not exist.
        settings = {"max_length": count, "sampling_topk": 1, "end_token": [len(self.words)]}
        return self.generator.generate_batch([words], include_prompt_in_result=False, **settings)[0].sequences_ids[0]

    def log_probabilities(self, prompt: Sequence[int]) -> list[float]:
        found = np.array(self.generator.forward_batch([list(prompt)], return_log_probs=True))[0]
        return [float(found[place, token]) for place, token in enumerate(prompt[1:])]


if __name__ == "__main__":
    serve(lambda: version("ctranslate2"), CTranslate2)
