#!/usr/bin/env bash
# Transformers 5.23.0 with tokenizers 0.23.3: beside a Qwen2 `AutoTokenizer` does not give the tokenizer that was saved.
#
# A byte-level BPE that does not split off digits is saved beside a config of Qwen2; `save_pretrained` names the class
# `TokenizersBackend` in tokenizer_config.json, which takes tokenizer.json as it is.
# Expected of `AutoTokenizer.from_pretrained`: the tokenizer that was saved, as beside a Llama.
# What happens: for a `model_type` of `qwen2` the class in the file is passed over, Qwen2Tokenizer takes the vocabulary and
# the merges, splits text by its own pattern, and adds a token. Nothing is said. Models of Qwen2's architecture with
# another tokenizer meet this. `PreTrainedTokenizerFast`, an alias of TokenizersBackend, reads the directory as it was saved.
#
# Seen:
#   saved: 258 tokens, 'a 12' is ['a', 'Ġ', '12']
#   llama, AutoTokenizer: TokenizersBackend, 258 tokens, ['a', 'Ġ', '12']
#   qwen2, AutoTokenizer: Qwen2Tokenizer, 259 tokens, ['a', 'Ġ', '1', '2']
#   qwen2, TokenizersBackend: TokenizersBackend, 258 tokens, ['a', 'Ġ', '12']
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq transformers==5.23.0 tokenizers==0.23.3
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

TEXT = "a 12"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {token: number for number, token in enumerate([*letters, "12", "<eos>"])}
backend = Tokenizer(models.BPE(vocabulary, [("1", "2")]))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
saved = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")
print(f"saved: {len(saved)} tokens, {TEXT!r} is {saved.tokenize(TEXT)}")
for config in (LlamaConfig(), Qwen2Config()):
    config.save_pretrained(config.model_type)
    saved.save_pretrained(config.model_type)


def show(family, reader, same):
    found = reader.from_pretrained(family)
    name = type(found).__name__
    print(f"{family}, {reader.__name__}: {name}, {len(found)} tokens, {found.tokenize(TEXT)}")
    assert (found.tokenize(TEXT) == saved.tokenize(TEXT)) == same
    assert (len(found) == len(saved)) == same


show("llama", AutoTokenizer, True)
show("qwen2", AutoTokenizer, False)
show("qwen2", PreTrainedTokenizerFast, True)
PYTHON
