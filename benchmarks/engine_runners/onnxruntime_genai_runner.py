"""ONNX Runtime GenAI, exported by its own model builder."""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime_genai
from runner import serve


class OnnxRuntimeGenai:
    def __init__(self, model: str, work: str, quick: bool = True) -> None:
        exported = Path(work) / "onnxruntime-genai"
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", model, "-o", exported]
        command += ["-p", "fp32", "-e", "cpu", "-c", Path(work) / "cache"]
        command += ["--extra_options", "hf_remote=true"]
        built = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True)
        if built.returncode:
            raise RuntimeError(built.stderr.strip().splitlines()[-1])
        config = exported / "genai_config.json"
        settings = json.loads(config.read_text(encoding="utf-8"))
        # The last token alone ends the text.
        settings["model"]["eos_token_id"] = settings["model"]["vocab_size"] - 1
        config.write_text(json.dumps(settings), encoding="utf-8")
        self.model = onnxruntime_genai.Model(str(exported))

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        generator = self.given(prompt, count)
        for _ in range(count):
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)[len(prompt) :]]

    def log_probabilities(self, prompt: Sequence[int]) -> list[float]:
        rows = self.given(prompt, 1).get_output("logits")[0].astype(np.float64)
        assert len(rows) == len(prompt)
        highest = rows.max(-1, keepdims=True)
        found = rows - highest - np.log(np.exp(rows - highest).sum(-1, keepdims=True))
        return [float(found[place, token]) for place, token in enumerate(prompt[1:])]

    def given(self, prompt: Sequence[int], count: int) -> onnxruntime_genai.Generator:
        """A generator that has read the prompt."""
        settings = onnxruntime_genai.GeneratorParams(self.model)
        settings.set_search_options(max_length=len(prompt) + count, do_sample=False)
        generator = onnxruntime_genai.Generator(self.model, settings)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        return generator


if __name__ == "__main__":
    serve(lambda: version("onnxruntime-genai"), OnnxRuntimeGenai)
