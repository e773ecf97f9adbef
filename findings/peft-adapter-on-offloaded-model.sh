#!/usr/bin/env bash
# PEFT 0.21.2, Accelerate 1.15.0 (Transformers 5.23.0, PyTorch 2.13.0): an adapter loaded into a model that
# `accelerate.cpu_offload` holds is lost.
#
# Expected: `PeftModel.from_pretrained`, or `get_peft_model` and `set_peft_model_state_dict`, load the adapter as they do
# into the same model in memory, or raise.
# What happens: PEFT makes the LoRA weights on the device of the layer, which is `meta` while Accelerate holds its weight,
# and no hook of Accelerate's looks after them. They stay on `meta`: what is loaded into them is dropped. PyTorch warns
# for each that copying is a no-op; nothing is raised, and the result of `set_peft_model_state_dict` names none of them.
#
# Seen:
#   in memory: 0 of 8 LoRA weights on meta
#   offloaded, set_peft_model_state_dict: 8 of 8 LoRA weights on meta, named as missing or unexpected: 0
#   offloaded, PeftModel.from_pretrained: 8 of 8 LoRA weights on meta
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq torch==2.13.0
"$work/venv/bin/pip" install -qq transformers==5.23.0 peft==0.21.2 accelerate==1.15.0
cd "$work"
venv/bin/python -W ignore - <<'PYTHON'
import accelerate
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import LlamaConfig, LlamaForCausalLM


def base(offloaded):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    return accelerate.cpu_offload(model, execution_device="cpu") if offloaded else model


def settings():
    return LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")


def on_meta(model, how):
    devices = [parameter.device.type for name, parameter in model.named_parameters() if "lora_" in name]
    print(f"{how}: {devices.count('meta')} of {len(devices)} LoRA weights on meta", end="")
    return devices.count("meta")


trained = get_peft_model(base(False), settings())
for name, parameter in trained.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(parameter, std=0.1)
trained.save_pretrained("adapter")
assert on_meta(PeftModel.from_pretrained(base(False), "adapter"), "in memory") == 0
print()

model = get_peft_model(base(True), settings())
result = set_peft_model_state_dict(model, get_peft_model_state_dict(trained))
named = [key for key in (*result.missing_keys, *result.unexpected_keys) if "lora_" in key]
assert on_meta(model, "offloaded, set_peft_model_state_dict") == 8
print(f", named as missing or unexpected: {len(named)}")
assert not named

assert on_meta(PeftModel.from_pretrained(base(True), "adapter"), "offloaded, PeftModel.from_pretrained") == 8
print()
PYTHON
