#!/usr/bin/env bash
# CTranslate2 4.8.5 (Transformers 5.24.0, PyTorch 2.13.0): a Llama whose config gives head_dim converts without a word and
# fails when it runs; a Mistral of the same shape works.
#
# Both configs have head_dim, the size of an attention head, which need not be hidden_size / num_attention_heads (fewer
# heads after pruning, or larger ones by design).
# Expected: the converter carries it for both, or refuses.
# What happens: for Mistral it is carried. For Llama hidden_size / num_attention_heads is taken: the conversion ends
# without an error and the first forward pass raises one about shapes.
#
# Seen (hidden size 64, 4 heads):
#   Mistral, heads of 16: tokens as in Transformers True
#   Mistral, heads of 32: tokens as in Transformers True
#   Llama, heads of 16: tokens as in Transformers True
#   Llama, heads of 32: converted, then ValueError: axis 2 has dimension 256 but expected 128
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.24.0 ctranslate2==4.8.5
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' | tee seen.txt || { cat errors.txt; exit 1; }
import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

SIZES = {"vocab_size": 32, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{number}": number for number in range(3, 32)}}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
    unk_token="<unk>",
    bos_token="<s>",
    eos_token="</s>",
)
tokens = list(range(3, 13))
prompt = tokenizer.convert_ids_to_tokens(tokens)
for kind, config_class, model_class in (
    ("Mistral", MistralConfig, MistralForCausalLM),
    ("Llama", LlamaConfig, LlamaForCausalLM),
):
    for head_dim in (16, 32):
        torch.manual_seed(0)
        config = config_class(**SIZES, head_dim=head_dim)
        config.sliding_window = None
        model = model_class(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(8 if weight.dim() > 1 else 1)
            expected = model(torch.tensor([tokens])).logits[0].argmax(-1).tolist()
        model.save_pretrained("model")
        tokenizer.save_pretrained("model")
        TransformersConverter("model").convert("converted", force=True)
        try:
            logits = np.array(ctranslate2.Generator("converted").forward_batch([prompt]))
            print(f"{kind}, heads of {head_dim}: tokens as in Transformers {logits[0].argmax(-1).tolist() == expected}")
        except ValueError as error:
            print(f"{kind}, heads of {head_dim}: converted, then ValueError: {error}")
PYTHON
diff seen.txt - <<'SEEN'
Mistral, heads of 16: tokens as in Transformers True
Mistral, heads of 32: tokens as in Transformers True
Llama, heads of 16: tokens as in Transformers True
Llama, heads of 32: converted, then ValueError: axis 2 has dimension 256 but expected 128
SEEN
