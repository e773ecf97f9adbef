"""llm-compressor's GPTQ in its own environment: rounds a model on given windows and writes it packed.

    PYTHON benchmarks/llm_compressor_runner.py MODEL WINDOWS.safetensors OUTPUT GROUPS.json

Started by quantization.py; it imports nothing of secateur.
"""

import json
import sys
from pathlib import Path

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM


def main() -> None:
    name, windows, output, groups = sys.argv[1:]
    torch.set_num_threads(1)
    tokens = load_file(windows)["windows"]
    samples = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in tokens]
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)
    recipe = GPTQModifier(**json.loads(Path(groups).read_text(encoding="utf-8")))
    loader = DataLoader(samples, batch_size=None)
    oneshot(model=model, dataset=loader, recipe=recipe, pipeline="sequential", num_calibration_samples=len(samples))
    model.save_pretrained(output, save_compressed=True)


if __name__ == "__main__":
    main()
