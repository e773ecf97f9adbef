#!/usr/bin/env bash
# Transformers 5.23.0 with gguf 0.19.0, tokenizers 0.23.3: a tokenizer that splits off single digits does not when it is
# read from a GGUF file.
#
# The key `tokenizer.ggml.pre` says how a byte-level BPE splits text before it merges. `smollm` (SmolLM2), `starcoder`,
# `refact` and `command-r` mean digits one by one, then GPT-2's words; llama.cpp does that, and the tokenizer.json of these
# models has it.
# Expected of `AutoTokenizer.from_pretrained(…, gguf_file=…)`: the same.
# What happens: names that Transformers has no rule for are read as `gpt-2`, so digits stay together and are merged
# where the vocabulary has merges of digits. Nothing is said.
#
# Seen:
#   as the name says: ['a', 'Ġ', '1', '2', '3']
#   read from a file with smollm: ['a', 'Ġ', '123']   (and the same for the other three)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.23.0 gguf==0.19.0 tokenizers==0.23.3 accelerate==1.15.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import gguf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

TEXT, MERGES = "a 123", [("1", "2"), ("12", "3")]
tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "123", "<eos>"]


def write(split):
    file = gguf.GGUFWriter("model.gguf", "llama")
    file.add_block_count(1)
    file.add_embedding_length(32)
    file.add_head_count(4)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(split)
    file.add_token_list(tokens)
    file.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
    file.add_token_merges([" ".join(pair) for pair in MERGES])
    file.add_bos_token_id(len(tokens) - 1)
    file.add_eos_token_id(len(tokens) - 1)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


expected = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, MERGES))
expected.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
print("as the name says:", expected.encode(TEXT).tokens)
for split in ("smollm", "starcoder", "refact", "command-r"):
    write(split)
    found = AutoTokenizer.from_pretrained(".", gguf_file="model.gguf").tokenize(TEXT)
    print(f"read from a file with {split}:", found)
    assert found == ["a", "Ġ", "123"]
PYTHON
