#!/usr/bin/env bash
# mlx-lm 0.32.2 (mlx[cpu] 0.32.4; Transformers 5.24.0, PyTorch 2.13.0): head_dim in the config of a Qwen2 is passed over,
# and the model does not load; a Qwen3 and a Llama of the same shape load and say what Transformers says.
#
# Transformers' Qwen2 takes head_dim from the config where it stands there, and hidden_size / num_attention_heads else.
# Expected: mlx-lm does too, as for its other families.
# What happens: its Qwen2 always takes hidden_size / num_attention_heads, and loading ends with a wrong shape.
#
# Seen (hidden size 64, 4 heads of 32):
#   llama: tokens as in Transformers True
#   qwen3: tokens as in Transformers True
#   qwen2: ValueError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.24.0 'mlx[cpu]==0.32.4' mlx-lm==0.32.2
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' | tee seen.txt || { cat errors.txt; exit 1; }
import json
from pathlib import Path

import mlx.core as mx
import torch
from mlx_lm.utils import load_model
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"vocab_size": 32, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 32}
tokens = list(range(3, 13))
for family in ("llama", "qwen3", "qwen2"):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)
        expected = model(torch.tensor([tokens])).logits[0].argmax(-1).tolist()
    model.save_pretrained("model")
    file = Path("model/config.json")
    config = json.loads(file.read_text())
    # Where mlx-lm looks for the base of the rotary positions; Transformers 5 writes it elsewhere.
    file.write_text(json.dumps({**config, "rope_theta": config["rope_parameters"]["rope_theta"]}))
    try:
        found = mx.argmax(load_model(Path("model"))[0](mx.array([tokens]))[0], -1).tolist()
        print(f"{family}: tokens as in Transformers {found == expected}")
    except ValueError as error:
        print(f"{family}: {type(error).__name__}")
PYTHON
diff seen.txt - <<'SEEN'
llama: tokens as in Transformers True
qwen3: tokens as in Transformers True
qwen2: ValueError
SEEN
