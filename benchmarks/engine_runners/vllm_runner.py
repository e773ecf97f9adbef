"""vLLM, through `LLM(...)`."""

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB

from runner import serve
from vllm import LLM, SamplingParams


def implementation(file: Path) -> str:
    """vLLM's own Qwen2 takes the hidden size by the number of heads for the size of a head; Transformers' does not."""
    config = json.loads(file.read_text(encoding="utf-8"))
    size = config.get("head_dim", 0) * config["num_attention_heads"]
    return "transformers" if config["model_type"] == "qwen2" and size not in (0, config["hidden_size"]) else "auto"


class Vllm:
    def __init__(self, model: str, work: str, tensor_parallel: int = 1, quick: bool = True) -> None:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        self.llm = LLM(
            model,
            trust_remote_code=True,
            # 4-bit weights are multiplied in 16 bits only.
            dtype="bfloat16" if "quantization_config" in config else "float32",
            model_impl=implementation(Path(model) / "config.json"),
            max_model_len=256,
            tensor_parallel_size=tensor_parallel,
            # Compiling takes a minute, and only times gain by it.
            enforce_eager=quick,
            # So that a prompt read again takes as long.
            enable_prefix_caching=False,
            disable_log_stats=True,
        )

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        done = self.llm.generate(
            {"prompt_token_ids": list(prompt)},
            SamplingParams(temperature=0, max_tokens=count, ignore_eos=True),
            use_tqdm=False,
        )
        return list(done[0].outputs[0].token_ids)

    def log_probabilities(self, prompt: Sequence[int]) -> list[float]:
        sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        done = self.llm.generate({"prompt_token_ids": list(prompt)}, sampling, use_tqdm=False)
        given = zip(prompt[1:], done[0].prompt_logprobs[1:], strict=True)
        return [position[token].logprob for token, position in given]


if __name__ == "__main__":
    serve(lambda: version("vllm-cpu"), Vllm)
