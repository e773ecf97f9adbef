"""GGUF files whose headers claim what is not there: one line each, before anything is believed."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.errors import ModelError
from secateur.models import loading
from secateur.models.gguf_input import read_gguf

MUCH = 2**60


@pytest.fixture
def file(tiny_model: Callable[..., PreTrainedModel], small_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """A whole file."""
    model = tiny_model(vocab_size=300, bos_token_id=0, pad_token_id=None, num_hidden_layers=2)
    secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def overwrite(file: Path, position: int, code: str, value: int) -> None:
    content = bytearray(file.read_bytes())
    struct.pack_into(f"<{code}", content, position, value)
    file.write_bytes(content)


def after(file: Path, name: str) -> int:
    """The position behind a name in the header."""
    return file.read_bytes().index(name.encode()) + len(name)


def refusal(file: Path) -> str:
    with pytest.raises(ModelError) as error:
        loading.load_settings(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


# Behind a key stand its type (4 bytes) and its value; behind a list's type that of its entries (4) and their number
# (8). Behind a tensor's name stand the number of its dimensions (4), each of them (8), its format (4), its offset (8).
@pytest.mark.parametrize(
    ("name", "offset", "code", "value", "reason"),
    [
        ("GGUF", -4, "I", 0, "does not begin with GGUF's mark"),
        ("GGUF", 0, "I", 1, "is of version 1"),
        ("GGUF", 0, "I", 3 << 24, "is big-endian"),
        ("GGUF", 4, "Q", MUCH, "claims 1,152,921,504,606,846,976 tensors"),
        ("GGUF", 12, "Q", MUCH, "claims 1,152,921,504,606,846,976 keys"),
        ("GGUF", 20, "Q", MUCH, "bytes in the name of a key"),
        ("general.architecture", 4, "Q", MUCH, "bytes in general.architecture"),
        ("general.architecture", 0, "I", 99, "general.architecture is of the unknown type 99"),
        ("tokenizer.ggml.tokens", 8, "Q", MUCH, "entries in tokenizer.ggml.tokens"),
        ("tokenizer.ggml.tokens", 4, "I", 9, "tokenizer.ggml.tokens is a list of lists"),
        ("tokenizer.ggml.token_type", 8, "Q", MUCH, "entries in tokenizer.ggml.token_type"),
        ("output_norm.weight", 0, "I", 2**31, "output_norm.weight has 2147483648 dimensions"),
        ("output_norm.weight", 4, "Q", MUCH, "output_norm.weight would end at byte"),
        ("output_norm.weight", 4, "Q", 0, "output_norm.weight has the shape"),
        ("output_norm.weight", 12, "I", 99, "output_norm.weight is of the unknown number format 99"),
        ("output_norm.weight", 16, "Q", MUCH, "output_norm.weight would end at byte"),
    ],
)
def test_claims(name: str, offset: int, code: str, value: int, reason: str, file: Path) -> None:
    overwrite(file, after(file, name) + offset, code, value)
    assert reason in refusal(file)


@pytest.mark.parametrize("part", [0, 3, 20, 100, 5000, 0.5, -1])
def test_files_that_are_cut_short(part: float, file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content)) if isinstance(part, float) else part])
    assert "could not be loaded" in refusal(file)


def test_names_that_stand_there_twice(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"blk.1.ffn_norm.weight", b"blk.0.ffn_norm.weight", 1))
    assert "the tensor blk.0.ffn_norm.weight stands there twice" in refusal(file)


def test_a_name_with_a_line_break_stays_one_line(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"blk.1.ffn_norm.weight", b"blk.1\nffn_norm\nweight", 1))
    assert "the name of a tensor is no name" in refusal(file)
    file.write_bytes(file.read_bytes().replace(b"llama", b"ll\nma"))
    refusal(file)


def test_any_change_of_the_header_is_read_or_refused(file: Path) -> None:
    """A sample of what `make fuzz` does: never an exception of another kind."""
    content = file.read_bytes()
    first = min(tensor.data_offset for tensor in gguf.GGUFReader(file).tensors)
    keys = content.index(b"tokenizer.ggml.tokens")
    tensors = content.index(b"token_embd.weight")
    chosen = random.Random(0)
    refused = 0
    for _ in range(120):
        changed = bytearray(content)
        low, high = chosen.choice([(0, keys), (0, first), (tensors, first), (first, len(content) - 8)])
        position = chosen.randrange(low, high)
        kind = chosen.randrange(4)
        if kind == 0:
            changed[position] = chosen.randrange(256)
        elif kind == 1:
            struct.pack_into(
                "<Q", changed, min(position, len(changed) - 8), chosen.choice([0, 1, 2**31, 2**63, 2**64 - 1])
            )
        elif kind == 2:
            del changed[position : position + chosen.randrange(1, 40)]
        else:
            changed[position:position] = chosen.randbytes(chosen.randrange(1, 20))
        file.write_bytes(changed)
        try:
            read_gguf(file, dtype=torch.float32)
        except ModelError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 60
