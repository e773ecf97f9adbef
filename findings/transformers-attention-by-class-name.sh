#!/usr/bin/env bash
# Transformers 5.24.0 (PyTorch 2.13.0): whether a model's attention implementation can be changed is read off the text of
# the Python file that its class stands in.
#
# `set_attn_implementation` is documented to switch a model between sdpa, eager and others.
# Expected: two subclasses of LlamaForCausalLM with the same modules behave alike, whatever else their files define.
# What happens: where the file has a class whose name contains `Attention` and whose base is written `nn.Module`, and the
# file itself does not call the attention interface, the switch is left undone with a warning in the log, although every
# attention of the model is Llama's own. The same class with its base written another way changes that.
#
# Seen:
#   no other class: eager
#   class NoAttention(nn.Module): sdpa
#   class NoAttention(Base), Base(nn.Module): eager
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.24.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import importlib
from pathlib import Path

from transformers import LlamaConfig

MODEL = "from torch import nn\nfrom transformers import LlamaForCausalLM\nclass Mine(LlamaForCausalLM):\n    pass\n"
FILES = {
    "no other class": ("", "eager"),
    "class NoAttention(nn.Module)": ("class NoAttention(nn.Module):\n    pass\n", "sdpa"),
    "class NoAttention(Base), Base(nn.Module)": (
        "class Base(nn.Module):\n    pass\nclass NoAttention(Base):\n    pass\n",
        "eager",
    ),
}
for number, (what, (more, expected)) in enumerate(FILES.items()):
    Path(f"file{number}.py").write_text(MODEL + more)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    model = importlib.import_module(f"file{number}").Mine(config)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    found = {layer.self_attn.config._attn_implementation for layer in model.model.layers}
    print(f"{what}: {', '.join(found)}")
    assert found == {expected}
PYTHON
