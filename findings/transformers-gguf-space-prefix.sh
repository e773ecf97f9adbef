#!/usr/bin/env bash
# Transformers 5.23.0 with gguf 0.19.0, tokenizers 0.23.3: `tokenizer.ggml.add_space_prefix` of a GGUF file is not obeyed.
#
# The key says whether a SentencePiece tokenizer puts a space before a text; llama.cpp does so unless it is false.
# Expected of `AutoTokenizer.from_pretrained(…, gguf_file=…)`: no space where the key is false.
# What happens: "a" becomes "▁a" all the same, whatever the key says, so the first word is another token. The key is
# read from the file and then not used; nothing is said.
#
# Seen:
#   add_space_prefix None: ['▁a']
#   add_space_prefix True: ['▁a']
#   add_space_prefix False: ['▁a']
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
venv/bin/pip install -qq torch==2.13.0
venv/bin/pip install -qq transformers==5.23.0 gguf==0.19.0 tokenizers==0.23.3 accelerate==1.15.0
venv/bin/python -W ignore - 2> errors.txt <<'PYTHON' || { cat errors.txt; exit 1; }
import gguf
from transformers import AutoTokenizer

SPECIAL, WORDS = ["<unk>", "<s>", "</s>"], ["▁a", "▁", "a"]
tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
kind = gguf.TokenType
types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256, *[kind.NORMAL] * len(WORDS)]
scores = [0.0] * 259 + [-1.0, -2.0, -3.0]


def write(space):
    file = gguf.GGUFWriter("model.gguf", "llama")
    file.add_block_count(1)
    file.add_embedding_length(32)
    file.add_head_count(4)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("llama")
    file.add_token_list(tokens)
    file.add_token_scores(scores)
    file.add_token_types(types)
    file.add_unk_token_id(0)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    if space is not None:
        file.add_add_space_prefix(space)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


for space in (None, True, False):
    write(space)
    found = AutoTokenizer.from_pretrained(".", gguf_file="model.gguf").tokenize("a")
    print(f"add_space_prefix {space}:", found)
    assert found == ["▁a"]
PYTHON
