#!/usr/bin/env bash
# llama.cpp (xllamacpp 2026.10.11549, gguf 0.19.0): the scale of Gemma 2's attention scores comes from the number of layers.
#
# Gemma 2 has `query_pre_attn_scalar` in its config, 256 in the small ones and 144 in the 27B. GGUF has a key for a scale
# (`gemma2.attention.scale`), and a file may hold it.
# Expected: layers that add nothing (their output projections are zero) change nothing, however many there are.
# What happens: the key is not read. A file of 46 layers, as many as the 27B has, is scaled by
# 1 / sqrt(embedding_length / head_count), every other one by 1 / sqrt(key_length). A 27B that loses a layer, or a 9B
# that is given four, is another model there.
#
# Seen (embedding length 64, 4 heads of 64; log-probabilities of the next token against 45 layers, largest difference):
#   42 layers: the same
#   45 layers: the same
#   46 layers: another model
#   46 layers, queries halved: the same
#   46 layers, with gemma2.attention.scale: as without it
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq gguf==0.19.0 xllamacpp==2026.10.11549
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' | tee seen.txt || { tail -5 errors.txt; exit 1; }
import json
import urllib.request

import numpy as np
import xllamacpp
from gguf import GGUFWriter

HIDDEN, HEADS, SIZE, WIDTH = 64, 4, 64, 96
WORDS = [f"w{number}" for number in range(256)]


def write(file: str, layers: int, queries: float = 1.0, scale: float | None = None) -> None:
    """Two layers that do something, and others whose output projections are zero."""
    random = np.random.default_rng(0)
    writer = GGUFWriter(file, "gemma2")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(SIZE)
    writer.add_value_length(SIZE)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(128)
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)
    if scale is not None:
        writer.add_float32("gemma2.attention.scale", scale)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(WORDS)
    writer.add_token_scores([0.0] * len(WORDS))
    writer.add_token_types([1] * len(WORDS))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def add(name: str, *shape: int, factor: float = 1.0) -> None:
        values = random.normal(size=shape) / np.sqrt(shape[-1]) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(name, (values * factor).astype(np.float32))

    add("token_embd.weight", len(WORDS), HIDDEN, factor=8)
    add("output_norm.weight", HIDDEN)
    for layer in range(layers):
        there = float(layer < 2)
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            add(f"blk.{layer}.{norm}.weight", HIDDEN)
        add(f"blk.{layer}.attn_q.weight", HEADS * SIZE, HIDDEN, factor=2 * queries)
        add(f"blk.{layer}.attn_k.weight", HEADS * SIZE, HIDDEN, factor=2)
        add(f"blk.{layer}.attn_v.weight", HEADS * SIZE, HIDDEN)
        add(f"blk.{layer}.attn_output.weight", HIDDEN, HEADS * SIZE, factor=there)
        add(f"blk.{layer}.ffn_gate.weight", WIDTH, HIDDEN)
        add(f"blk.{layer}.ffn_up.weight", WIDTH, HIDDEN)
        add(f"blk.{layer}.ffn_down.weight", HIDDEN, WIDTH, factor=there)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def log_probabilities(file: str) -> np.ndarray:
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = file, 128, 1
    params.warmup, params.verbosity = False, 0
    server = xllamacpp.Server(params)
    body = {"prompt": list(range(3, 40)), "n_predict": 1, "temperature": 0, "n_probs": len(WORDS)}
    request = urllib.request.Request(
        f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)["completion_probabilities"][0]["top_logprobs"]
    return np.array([each["logprob"] for each in sorted(found, key=lambda each: each["id"])])


def compared(found: np.ndarray, expected: np.ndarray, same: str, other: str) -> str:
    return same if np.abs(found - expected).max() < 1e-2 else other


write("45.gguf", 45)
expected = log_probabilities("45.gguf")
for layers in (42, 45, 46):
    write("other.gguf", layers)
    found = log_probabilities("other.gguf")
    print(f"{layers} layers: {compared(found, expected, 'the same', 'another model')}")
write("halved.gguf", 46, queries=0.5)
print(f"46 layers, queries halved: {compared(log_probabilities('halved.gguf'), expected, 'the same', 'another model')}")
write("stated.gguf", 46, scale=SIZE**-0.5)
print(f"46 layers, with gemma2.attention.scale: {compared(log_probabilities('stated.gguf'), found, 'as without it', 'read')}")
PYTHON
diff seen.txt - <<'SEEN'
42 layers: the same
45 layers: the same
46 layers: another model
46 layers, queries halved: the same
46 layers, with gemma2.attention.scale: as without it
SEEN
