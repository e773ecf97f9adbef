#!/usr/bin/env bash
# Transformers 5.23.0 with gguf 0.19.0: a GGUF file whose `general.name` is exactly `mistral` cannot be loaded.
#
# `general.name` is a title for people. GGUF files of Mistral are of the architecture `llama`.
# Expected: the title has no bearing on how a file is read.
# What happens: in a file of the architecture `llama` with the name `mistral` Transformers takes `mistral` for the
# architecture, for which the package gguf has no table of tensor names; the error speaks of an outdated gguf. With
# `Mistral`, or any longer name, the same file is read as a Llama.
#
# Seen:
#   tiny: LlamaForCausalLM
#   Mistral: LlamaForCausalLM
#   mistral-7b: LlamaForCausalLM
#   mistral: NotImplementedError: Unknown gguf model_type: mistral in gguf-py.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import gguf
import numpy as np
from transformers import AutoModelForCausalLM

SHAPES = {
    "token_embd": (64, 32), "output_norm": (32,), "output": (64, 32), "blk.0.attn_norm": (32,),
    "blk.0.ffn_norm": (32,), "blk.0.attn_q": (32, 32), "blk.0.attn_k": (32, 32), "blk.0.attn_v": (32, 32),
    "blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
}


def write(name):
    file = gguf.GGUFWriter("model.gguf", "llama")
    file.add_name(name)
    file.add_context_length(2048)
    file.add_embedding_length(32)
    file.add_block_count(1)
    file.add_feed_forward_length(64)
    file.add_head_count(4)
    file.add_head_count_kv(4)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(8)
    file.add_vocab_size(64)
    for tensor, shape in SHAPES.items():
        file.add_tensor(f"{tensor}.weight", np.full(shape, 0.1, np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


for name in ("tiny", "Mistral", "mistral-7b", "mistral"):
    write(name)
    try:
        found = type(AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf")).__name__
    except NotImplementedError as error:
        found = f"NotImplementedError: {str(error).split(' This ')[0]}"
    print(f"{name}: {found}")
    assert found.startswith("NotImplementedError" if name == "mistral" else "LlamaForCausalLM")
PYTHON
