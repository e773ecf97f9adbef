#!/usr/bin/env bash
# Transformers 5.24.0 (huggingface_hub as it requires, PyTorch 2.13.0): a config class that overrides a check of its
# parent passes when it is made, and is refused by the parent's check when it is saved.
#
# LlamaConfig's validate_architecture wants hidden_size to be a multiple of num_attention_heads. A subclass whose own
# validate_architecture allows other numbers (head_dim is given) is made without complaint.
# Expected: the override holds, as with any method; in validate() and save_pretrained too.
# What happens: the checks are collected, as functions, where the class is decorated with huggingface_hub's `strict`. A
# subclass that is not decorated itself has the parent's list: its override is never called, and save_pretrained raises.
# Decorated with `strict` once more, it holds.
#
# Seen:
#   LlamaConfig: making it raises StrictDataclassClassValidationError
#   Overridden: made, saving raises StrictDataclassClassValidationError; its own check was called 0 times
#   Decorated: made, saved; its own check was called 2 times
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.24.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' | tee seen.txt || { cat errors.txt; exit 1; }
from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

SIX_HEADS = {"hidden_size": 64, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
calls = []


class Overridden(LlamaConfig):
    model_type = "overridden"

    def validate_architecture(self):
        calls.append("Overridden")


@strict
class Decorated(LlamaConfig):
    model_type = "decorated"

    def validate_architecture(self):
        calls.append("Decorated")


try:
    LlamaConfig(**SIX_HEADS)
except Exception as error:
    print(f"LlamaConfig: making it raises {type(error).__name__}")
for kind in (Overridden, Decorated):
    config = kind(**SIX_HEADS)
    try:
        config.save_pretrained("saved")
        outcome = "saved"
    except Exception as error:
        outcome = f"saving raises {type(error).__name__}"
    times = calls.count(kind.__name__)
    print(f"{kind.__name__}: made, {outcome}; its own check was called {times} times")
PYTHON
diff seen.txt - <<'SEEN'
LlamaConfig: making it raises StrictDataclassClassValidationError
Overridden: made, saving raises StrictDataclassClassValidationError; its own check was called 0 times
Decorated: made, saved; its own check was called 2 times
SEEN
