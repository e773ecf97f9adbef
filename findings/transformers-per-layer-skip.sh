#!/usr/bin/env bash
# Transformers 5.23.0 (PyTorch 2.13.0): `per_layer_config` takes `skip`, and no part of a layer is skipped.
#
# `per_layer_config` gives layers settings of their own; `skip` lists parts of a layer that are left out. It is checked
# (a list of strings), kept, and saved in config.json.
# Expected of a Llama whose layer 0 skips its MLP: no MLP there, or an error, as for other settings that its code does not
# read layer by layer (`intermediate_size`: AmbiguousGlobalPerLayerAttributeError).
# What happens: the model is built with all its MLPs and its logits are those without `skip`. Nothing is said, for a
# name that is no part of a layer neither.
#
# Seen:
#   skip ['mlp']: in the saved config True, parameters 0 fewer, logits differ by 0.0
#   skip ['no_such_part']: in the saved config True, parameters 0 fewer, logits differ by 0.0
#   intermediate_size: AmbiguousGlobalPerLayerAttributeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.23.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import json

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def tiny(**options):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, **options
    )
    return LlamaForCausalLM(config).eval()


tokens, whole = torch.arange(16)[None], tiny()
for skip in (["mlp"], ["no_such_part"]):
    model = tiny(per_layer_config={0: {"skip": skip}})
    model.config.save_pretrained(".")
    with open("config.json") as file:
        saved = json.load(file)["per_layer_config"]["0"]["skip"] == skip
    with torch.no_grad():
        difference = (model(tokens).logits - whole(tokens).logits).abs().max().item()
    fewer = whole.num_parameters() - model.num_parameters()
    print(f"skip {skip}: in the saved config {saved}, parameters {fewer} fewer, logits differ by {difference}")
    assert saved and fewer == 0 and difference == 0
try:
    tiny(per_layer_config={0: {"intermediate_size": 48}})
except RuntimeError as error:
    print(f"intermediate_size: {type(error).__name__}")
    assert type(error).__name__ == "AmbiguousGlobalPerLayerAttributeError"
else:
    raise AssertionError("built")
PYTHON
