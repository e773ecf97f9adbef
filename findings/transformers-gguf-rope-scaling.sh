#!/usr/bin/env bash
# Transformers 5.23.0 with gguf 0.19.0: the scaling of rotary positions in a GGUF file of a Llama is dropped.
#
# Such a file has linear scaling in the keys `llama.rope.scaling.type` and `.factor`, and Llama 3's in the tensor
# `rope_freqs.weight` (what each frequency is divided by), as llama.cpp's converter writes it for Llama 3.1 and later.
# Expected of `from_pretrained(…, gguf_file=…)`: the scaling comes back in `rope_parameters`, or is said to be left out.
# What happens: the config says `default`, the tensor is passed over and not among the unexpected keys, and nothing is
# said (keys that are not used are logged at INFO, which is off). A file without scaling comes back as it was.
#
# Seen:
#   written default: read default, log-probabilities differ by up to 0.0000, unexpected keys 0
#   written linear: read default, log-probabilities differ by up to 15.7361, unexpected keys 0
#   written llama3: read default, log-probabilities differ by up to 14.3017, unexpected keys 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import gguf
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

HEADS, SIZE = 4, 16
TENSORS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def write(model, scaling):
    """As llama.cpp's converter does: rows of queries and keys in pairs that are rotated together."""
    file = gguf.GGUFWriter("model.gguf", "llama")
    file.add_context_length(model.config.max_position_embeddings)
    file.add_embedding_length(HEADS * SIZE)
    file.add_block_count(1)
    file.add_feed_forward_length(128)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(SIZE)
    file.add_vocab_size(256)
    state = model.state_dict()
    file.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    file.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    file.add_tensor("output.weight", state["lm_head.weight"].numpy())
    for name, short in TENSORS.items():
        weight = state[f"model.layers.0.{name}.weight"]
        if short in ("attn_q", "attn_k"):
            weight = weight.reshape(HEADS, 2, SIZE // 2, -1).transpose(1, 2).reshape(weight.shape)
        file.add_tensor(f"blk.0.{short}.weight", weight.contiguous().numpy())
    if scaling == "linear":
        file.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        file.add_rope_scaling_factor(8.0)
    if scaling == "llama3":
        plain = 10000.0 ** (-torch.arange(0, SIZE, 2) / SIZE)
        file.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


RULES = {
    "default": {},
    "linear": {"factor": 8.0},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256
    },
}
tokens = torch.arange(256)[None]
for kind, rule in RULES.items():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=HEADS * SIZE, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=HEADS, max_position_embeddings=2048, initializer_range=0.3,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **rule},
    )
    model = LlamaForCausalLM(config).eval()
    write(model, kind)
    read, info = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf", output_loading_info=True)
    with torch.no_grad():
        difference = (read(tokens).logits.log_softmax(-1) - model(tokens).logits.log_softmax(-1)).abs().max().item()
    found, unexpected = read.config.rope_parameters["rope_type"], len(info["unexpected_keys"])
    print(
        f"written {kind}: read {found}, log-probabilities differ by up to {difference:.4f}, "
        f"unexpected keys {unexpected}"
    )
    assert found == "default" and unexpected == 0
    assert difference < 1e-3 if kind == "default" else difference > 0.05
PYTHON
