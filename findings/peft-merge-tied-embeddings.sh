#!/usr/bin/env bash
# PEFT 0.21.2 (Transformers 5.23.0, PyTorch 2.13.0): merging a LoRA of tied embeddings adds its update twice.
#
# The model ties lm_head to embed_tokens. With `ensure_weight_tying=True`, which PEFT's warning asks for, an adapter on
# one of the two is put on both, and the adapters are tied too: one update D for one shared weight W.
# Expected of merge_and_unload: the shared weight is W + D, and the logits are those of the adapted model.
# What happens: each of the two layers adds D to the weight that they share, which becomes W + 2 D.
# PEFT warns that merging tied weights can lead to complications; nothing is raised, and the embeddings stay tied.
# Without `ensure_weight_tying` D is added once, and the layer without an adapter gets it as well.
#
# Seen:
#   embed_tokens, ensure_weight_tying=True: merged - original = 2.000 D, logits differ by 2.36 of at most 2.55
#   lm_head, ensure_weight_tying=True: merged - original = 2.000 D, logits differ by 2.36 of at most 2.55
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq torch==2.13.0
"$work/venv/bin/pip" install -qq transformers==5.23.0 peft==0.21.2 accelerate==1.15.0
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = torch.arange(16)[None]
for target in ("embed_tokens", "lm_head"):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    original = model.lm_head.weight.detach().clone()
    settings = LoraConfig(r=4, target_modules=[target], task_type="CAUSAL_LM", ensure_weight_tying=True)
    adapted = get_peft_model(model, settings).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
        update = adapted.base_model.model.lm_head.get_delta_weight("default").clone()
        beside = adapted(TOKENS).logits
        merged = adapted.merge_and_unload()
        inside = merged(TOKENS).logits
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    change = merged.lm_head.weight.detach() - original
    times = ((change * update).sum() / (update * update).sum()).item()
    difference = (inside - beside).abs().max().item()
    print(
        f"{target}, ensure_weight_tying=True: merged - original = {times:.3f} D, "
        f"logits differ by {difference:.2f} of at most {beside.abs().max():.2f}"
    )
    assert torch.allclose(change, 2 * update, atol=1e-5)
    assert difference > 0.5
PYTHON
