#!/usr/bin/env bash
# Transformers 5.23.0 with gguf 0.19.0, tokenizers 0.23.3: Llama 3's rule that a known word is one token is lost when the
# tokenizer is read from a GGUF file.
#
# With `tokenizer.ggml.pre` = `llama-bpe`, and with `tekken`, llama.cpp takes a word whole that is in the vocabulary,
# whether merges lead to it or not; the tokenizer.json of these models says `"ignore_merges": true`.
# Expected of `AutoTokenizer.from_pretrained(…, gguf_file=…)`: the same.
# What happens: `ignore_merges` stays false, so that tokens which no merges lead to are never used. Nothing is said.
#
# Seen:
#   with ignore_merges: ['abc']
#   read from a file with llama-bpe: ['a', 'b', 'c']
#   read from a file with tekken: ['a', 'b', 'c']
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

MERGES = [("x", "y")]
tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "xy", "abc", "<eos>"]


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
    file.add_add_bos_token(False)
    file.add_eos_token_id(len(tokens) - 1)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


vocabulary = {token: number for number, token in enumerate(tokens)}
expected = Tokenizer(models.BPE(vocabulary, MERGES, ignore_merges=True))
expected.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
print("with ignore_merges:", expected.encode("abc").tokens)
for split in ("llama-bpe", "tekken"):
    write(split)
    found = AutoTokenizer.from_pretrained(".", gguf_file="model.gguf").tokenize("abc")
    print(f"read from a file with {split}:", found)
    assert found == ["a", "b", "c"]
PYTHON
