"""OpenVINO GenAI, exported by optimum-intel."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from optimum.exporters.openvino import main_export
from runner import serve

PRECISE = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


class OpenVino:
    def __init__(self, model: str, work: str, quick: bool = True) -> None:
        exported = Path(work) / "openvino"
        task = "text-generation-with-past"
        main_export(model, exported, task=task, trust_remote_code=True, convert_tokenizer=True)
        self.pipeline = openvino_genai.LLMPipeline(str(exported), "CPU", **PRECISE)
        self.model = openvino.Core().compile_model(exported / "openvino_model.xml", "CPU", PRECISE)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        tokens = np.array([prompt], dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(tokens), openvino.Tensor(np.ones_like(tokens)))
        settings = openvino_genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
        return list(self.pipeline.generate(inputs, settings).tokens[0])

    def log_probabilities(self, prompt: Sequence[int]) -> list[float]:
        tokens = np.array([prompt], dtype=np.int64)
        given = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "position_ids": np.arange(tokens.size, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        names = {name for each in self.model.inputs for name in each.names}
        request = self.model.create_infer_request()
        logits = request.infer({name: value for name, value in given.items() if name in names})["logits"][0]
        rows = logits[:-1].astype(np.float64)
        found = rows - np.log(np.exp(rows - rows.max(-1, keepdims=True)).sum(-1, keepdims=True))
        found -= rows.max(-1, keepdims=True)
        return [float(found[place, token]) for place, token in enumerate(prompt[1:])]


if __name__ == "__main__":
    serve(lambda: version("openvino-genai"), OpenVino)
