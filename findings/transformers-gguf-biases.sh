#!/usr/bin/env bash
# Transformers 5.23.0 with gguf 0.19.0: biases in a GGUF file of the architecture `llama` are dropped.
#
# llama.cpp adds `blk.N.attn_q.bias` and its like wherever a file of a Llama holds them (checkpoints with `attention_bias`
# or `mlp_bias`); no key says so. Transformers' LlamaConfig has fields for both.
# Expected of `from_pretrained(…, gguf_file=…)`: biases in the model, or a word that they were left out, as for a
# checkpoint in safetensors, whose surplus tensors are listed as unexpected keys.
# What happens: the model has no biases and computes something else. `unexpected_keys` is empty and nothing is said.
#
# Seen:
#   without biases: log-probabilities differ by up to 0.0000
#   with 7 biases: read attention_bias False, mlp_bias False, unexpected keys 0, log-probabilities differ by up to 0.6963
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

HEADS, SIZE = 4, 8
TENSORS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def write(model):
    """As llama.cpp's converter does: rows of queries and keys in pairs that are rotated together."""
    file = gguf.GGUFWriter("model.gguf", "llama")
    file.add_context_length(2048)
    file.add_embedding_length(HEADS * SIZE)
    file.add_block_count(1)
    file.add_feed_forward_length(64)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(SIZE)
    file.add_vocab_size(64)
    state = model.state_dict()
    file.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    file.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    file.add_tensor("output.weight", state["lm_head.weight"].numpy())
    for name, short in TENSORS.items():
        for part in ("weight", "bias"):
            values = state.get(f"model.layers.0.{name}.{part}")
            if values is None:
                continue
            if short in ("attn_q", "attn_k"):
                values = values.reshape(HEADS, 2, SIZE // 2, -1).transpose(1, 2).reshape(values.shape)
            file.add_tensor(f"blk.0.{short}.{part}", values.contiguous().numpy())
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


tokens = torch.arange(64)[None]
for biases in (False, True):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=HEADS * SIZE, intermediate_size=64, num_hidden_layers=1, num_attention_heads=HEADS,
        attention_bias=biases, mlp_bias=biases,
    )
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter)
    write(model)
    read, info = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf", output_loading_info=True)
    with torch.no_grad():
        difference = (read(tokens).logits.log_softmax(-1) - model(tokens).logits.log_softmax(-1)).abs().max().item()
    assert not info["unexpected_keys"] and not read.config.attention_bias and not read.config.mlp_bias
    if biases:
        print("with 7 biases: read attention_bias False, mlp_bias False, unexpected keys 0, ", end="")
        assert difference > 0.05
    else:
        print("without biases: ", end="")
        assert difference < 1e-3
    print(f"log-probabilities differ by up to {difference:.4f}")
PYTHON
