#!/usr/bin/env bash
# Transformers 5.23.0 and 4.57.3: a Llama that 5 has saved has other rotary positions in 4, without a word.
#
# Expected: the older version reads `config.json`, or says that it cannot.
# What happens: 5 writes the base of the rotary positions to `rope_parameters` alone. 4 looks for `rope_theta` and
# `rope_scaling`, finds neither and takes its defaults, base 10000 and no scaling. It keeps `rope_parameters` as an
# attribute that nothing reads.
#
# Seen:
#   5.23.0: rope_parameters {'rope_type': 'default', 'rope_theta': 500000.0}; keys in config.json: ['rope_parameters']
#   4.57.3: rope_theta 10000.0, log-probabilities differ by up to 14.56
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.23.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import json

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    initializer_range=0.3, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
)
model = LlamaForCausalLM(config).eval()
model.save_pretrained("model")
with torch.no_grad():
    torch.save(model(torch.arange(128)[None]).logits.log_softmax(-1), "expected.pt")
with open("model/config.json") as file:
    keys = [key for key in json.load(file) if key.startswith("rope")]
print(f"{transformers.__version__}: rope_parameters {model.config.rope_parameters}; keys in config.json: {keys}")
assert keys == ["rope_parameters"]
PYTHON
venv/bin/pip install -qq transformers==4.57.3
venv/bin/python - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import torch
import transformers
from transformers import LlamaForCausalLM

model = LlamaForCausalLM.from_pretrained("model").eval()
with torch.no_grad():
    logprobs = model(torch.arange(128)[None]).logits.log_softmax(-1)
difference = (logprobs - torch.load("expected.pt")).abs().max().item()
theta = model.config.rope_theta
print(f"{transformers.__version__}: rope_theta {theta}, log-probabilities differ by up to {difference:.2f}")
assert theta == 10000.0
assert difference > 0.1
PYTHON
! grep -i rope errors.txt
