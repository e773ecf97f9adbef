#!/usr/bin/env bash
# Transformers 5.24.0 with compressed-tensors 0.20.0: `dequantize=True` reads all matrices by one of the config groups.
#
# The format's `config_groups` exist so that matrices differ: each group names its modules and their scheme. Loaded as it
# is, a checkpoint whose attention has 32 weights to a scale and whose MLP has 64 gives the logits of its weights.
# Expected of `CompressedTensorsConfig(dequantize=True)`, whose weights are multiplied out at once: the same logits.
# What happens: every matrix outside experts is taken for one of the first such group; loading ends with a RuntimeError
# that blames the MLP's tensors. With one size for all it works.
#
# Seen:
#   32 and 32, as it is: logits differ by up to 0.0000
#   32 and 32, dequantize: logits differ by up to 0.0000
#   32 and 64, as it is: logits differ by up to 0.0000
#   32 and 64, dequantize: RuntimeError, and the report names model.layers.0.mlp.down_proj.weight
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.24.0 compressed-tensors==0.20.0 accelerate==1.15.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import contextlib
import io
import json
import logging
from pathlib import Path

import torch
import transformers
from compressed_tensors.compressors import pack_to_int32
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM

said = io.StringIO()
transformers.utils.logging.get_logger("transformers").addHandler(logging.StreamHandler(said))
BITS = 4


def write(path, sizes):
    """A random Llama of 4-bit weights, `sizes` of them to a scale, and the same one with ordinary weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=False, initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    tensors = dict(model.state_dict())
    for name, linear in model.named_modules():
        if not isinstance(linear, torch.nn.Linear) or name == "lm_head":
            continue
        weight = tensors.pop(f"{name}.weight").unflatten(1, (-1, sizes[name.split(".")[3]]))
        scale = weight.abs().amax(-1) / 7  # (rows, groups)
        levels = (weight / scale[..., None]).round()
        linear.weight.data = (levels * scale[..., None]).flatten(1)
        tensors[f"{name}.weight_packed"] = pack_to_int32(levels.flatten(1).to(torch.int8), BITS)
        tensors[f"{name}.weight_scale"] = scale
        tensors[f"{name}.weight_shape"] = torch.tensor(linear.weight.shape)
    scheme = {"num_bits": BITS, "type": "int", "symmetric": True, "strategy": "group"}
    groups = {
        part: {"targets": [f"re:.*{part}.*proj$"], "weights": {**scheme, "group_size": size}}
        for part, size in sizes.items()
    }
    quantization = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": groups,
    }
    path.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps({**config.to_dict(), "quantization_config": quantization}))
    return model


tokens = torch.arange(20)[None]
for size in (32, 64):
    model = write(Path(f"with-{size}"), {"self_attn": 32, "mlp": size})
    for word, given in (("as it is", {}), ("dequantize", {"quantization_config": CompressedTensorsConfig(dequantize=True)})):
        print(f"32 and {size}, {word}: ", end="")
        try:
            with contextlib.redirect_stderr(said):
                read = AutoModelForCausalLM.from_pretrained(f"with-{size}", dtype="float32", **given)
        except RuntimeError:
            assert (size, word) == (64, "dequantize")
            name = "model.layers.0.mlp.down_proj.weight"
            assert name in said.getvalue()
            print(f"RuntimeError, and the report names {name}")
            continue
        with torch.no_grad():
            difference = (read(tokens).logits - model(tokens).logits).abs().max().item()
        print(f"logits differ by up to {difference:.4f}")
        assert difference < 1e-4 and (size, word) != (64, "dequantize")
PYTHON
