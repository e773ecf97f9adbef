#!/usr/bin/env bash
# mlx-lm 0.32.2 (Transformers 5.23.0): a Llama, Mistral or Qwen2 that Transformers 5 has saved gets the default base for its
# rotary positions.
#
# Transformers 5 writes the base to `rope_parameters` alone.
# Expected: mlx-lm reads it from there, or says that it finds none, as its Qwen3 does.
# What happens: the model arguments of Llama (which Mistral uses too) and Qwen2 know `rope_theta` and `rope_scaling` at the
# top level only, and take 10000 and 1000000 without a word. Scaling in `rope_parameters` is dropped as well.
#
# Seen:
#   llama, saved with base 500000: base 10000, scaling None
#   qwen2, saved with base 500000: base 1000000, scaling None
#   qwen3, saved with base 500000: base 500000, scaling linear
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq transformers==5.23.0 'mlx[cpu]==0.32.4' mlx-lm==0.32.2
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import importlib
import json

from transformers import LlamaConfig, Qwen2Config, Qwen3Config

BASES = {"llama": 10000, "qwen2": 1000000, "qwen3": 500000}
for kind in (LlamaConfig, Qwen2Config, Qwen3Config):
    kind(rope_parameters={"rope_type": "linear", "rope_theta": 500000.0, "factor": 8.0}).save_pretrained(".")
    with open("config.json") as file:
        content = json.load(file)
    family = content["model_type"]
    arguments = importlib.import_module(f"mlx_lm.models.{family}").ModelArgs.from_dict(content)
    scaling = (arguments.rope_scaling or {}).get("rope_type")
    print(f"{family}, saved with base 500000: base {arguments.rope_theta:.0f}, scaling {scaling}")
    assert arguments.rope_theta == BASES[family]
    assert scaling == ("linear" if family == "qwen3" else None)
PYTHON
