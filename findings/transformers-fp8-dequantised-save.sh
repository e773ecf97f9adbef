#!/usr/bin/env bash
# Transformers 5.23.0 (PyTorch 2.13.0): an FP8 checkpoint that was loaded with `dequantize=True` and saved again comes back
# with other weights.
#
# Expected of `save_pretrained`: ordinary weights, as the model in memory has them, or FP8 with the `quantization_config`
# that says so.
# What happens: all matrices are stored in FP8 with scales (`weight_scale_inv`), the embeddings and lm_head too, which were
# bfloat16 in the checkpoint; and config.json has no `quantization_config`. `from_pretrained` then takes the FP8
# numbers for the weights, without their scales: it lists the scales as unexpected keys and raises nothing.
#
# Seen:
#   in memory: torch.float32, up_proj differs from the original by 0.0033 of at most 0.09
#   saved: up_proj torch.float8_e4m3fn, lm_head torch.float8_e4m3fn, quantization_config None
#   read back: torch.float32, up_proj differs from the original by 447.9
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.23.0 accelerate==1.15.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import json

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, LlamaConfig, LlamaForCausalLM

UP = "model.layers.0.mlp.up_proj.weight"
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=256, hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4
)
LlamaForCausalLM(config).save_pretrained("fp8")

# The layout of published FP8 checkpoints: projections in FP8, one scale for each block of 128 by 128.
original = load_file("fp8/model.safetensors")
stored = {}
for name, weight in original.items():
    if "_proj." in name:
        scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
        stored[name] = (weight / scale).to(torch.float8_e4m3fn)
        stored[f"{name}_scale_inv"] = scale.reshape(1, 1)
    else:
        stored[name] = weight.to(torch.bfloat16)
save_file(stored, "fp8/model.safetensors", metadata={"format": "pt"})
with open("fp8/config.json") as file:
    content = json.load(file)
content["quantization_config"] = {
    "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]
}
with open("fp8/config.json", "w") as file:
    json.dump(content, file)


def read(directory, **options):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **options)
    weight = model.state_dict()[UP]
    return model, weight.dtype, (weight.float() - original[UP]).abs().max().item()


model, dtype, error = read("fp8", quantization_config=FineGrainedFP8Config(dequantize=True))
most = original[UP].abs().max()
print(f"in memory: {dtype}, up_proj differs from the original by {error:.4f} of at most {most:.2f}")
assert dtype == torch.float32 and error < 0.01
model.save_pretrained("again")
saved = load_file("again/model.safetensors")
with open("again/config.json") as file:
    method = json.load(file).get("quantization_config")
head = saved["lm_head.weight"].dtype
print(f"saved: up_proj {saved[UP].dtype}, lm_head {head}, quantization_config {method}")
assert saved[UP].dtype == head == torch.float8_e4m3fn and method is None
_, dtype, error = read("again")
print(f"read back: {dtype}, up_proj differs from the original by {error:.1f}")
assert error > 100
PYTHON
