#!/usr/bin/env bash
# Transformers 5.24.0 (PyTorch 2.13.0): with head counts in `per_layer_config`, whether rotary positions can be set up
# depends on their kind, although head_dim is given and none of them needs a number of heads.
#
# A config whose layers differ in num_attention_heads says so in `per_layer_config`; reading config.num_attention_heads
# then raises on purpose. head_dim, all that rotary positions need, is one number for all layers.
# Expected: every kind of ROPE_INIT_FUNCTIONS works, or none does.
# What happens: `linear` and `llama3` work; `dynamic` and `yarn` raise when frequencies are computed, `longrope`
# already when the config is made: they look head_dim up with hidden_size // num_attention_heads as the fallback, which
# Python computes before it is needed.
#
# Seen:
#   linear: 8 frequencies
#   dynamic: AmbiguousGlobalPerLayerAttributeError
#   yarn: AmbiguousGlobalPerLayerAttributeError
#   llama3: 8 frequencies
#   longrope: AmbiguousGlobalPerLayerAttributeError, when the config is made
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.24.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' | tee seen.txt || { cat errors.txt; exit 1; }
from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

STRETCHED = {"factor": 2.0, "original_max_position_embeddings": 128}
KINDS = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": STRETCHED,
    "llama3": {**STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": {**STRETCHED, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
}
for kind, settings in KINDS.items():
    when = ", when the config is made"
    try:
        config = Qwen3Config(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
            rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **settings},
            per_layer_config={0: {"num_attention_heads": 2, "num_key_value_heads": 1}},
        )
        when = ""
        frequencies, _ = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=64)
        print(f"{kind}: {len(frequencies)} frequencies")
    except Exception as error:
        print(f"{kind}: {type(error).__name__}{when}")
PYTHON
diff seen.txt - <<'SEEN'
linear: 8 frequencies
dynamic: AmbiguousGlobalPerLayerAttributeError
yarn: AmbiguousGlobalPerLayerAttributeError
llama3: 8 frequencies
longrope: AmbiguousGlobalPerLayerAttributeError, when the config is made
SEEN
