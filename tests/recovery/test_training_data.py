"""Windows, examples, padding, and the part set apart for validation."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from secateur.data import Corpus, load_corpus
from secateur.errors import DataError, InputError
from secateur.recovery.config import RecoverConfig
from secateur.recovery.datasets import (
    IGNORED,
    Padding,
    Sequences,
    part_of_batch,
    scored_tokens,
    training_sequences,
)

pytestmark = pytest.mark.usefixtures("private_cache")

LoadText = Callable[[str], Corpus]


@pytest.fixture
def text(tmp_path: Path) -> LoadText:
    def make(content: str) -> Corpus:
        (tmp_path / "text.txt").write_text(content, encoding="utf-8")
        return load_corpus(str(tmp_path / "text.txt"))

    return make


@pytest.fixture
def examples(tmp_path: Path) -> Corpus:
    rows = [{"instruction": f"Count to {n}.", "input": "", "output": "one " * n} for n in range(1, 9)]
    (tmp_path / "examples.json").write_text(json.dumps(rows), encoding="utf-8")
    return load_corpus(str(tmp_path / "examples.json"))


def sequences_of(lengths: list[int]) -> Sequences:
    rows = [torch.arange(1, length + 1) for length in lengths]
    return Sequences(rows, rows)


def test_windows_are_packed_and_split(text: LoadText, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    config = RecoverConfig(seqlen=10, val_size=0.25)
    train, validation = training_sequences(tiny_tokenizer, text("0123456789" * 8), config)
    assert validation is not None
    assert (len(train), len(validation)) == (6, 2)
    assert all(len(item["input_ids"]) == 10 for item in (train[0], validation[1]))
    assert torch.equal(train[0]["labels"], train[0]["input_ids"])


def test_validation_shares_no_window_with_training(text: LoadText, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    content = "".join(chr(ord("A") + n) * 4 for n in range(20))
    config = RecoverConfig(seqlen=4, val_size=5)
    train, validation = training_sequences(tiny_tokenizer, text(content), config)
    assert validation is not None
    seen = [int(row["input_ids"][0]) for part in (train, validation) for row in (part[i] for i in range(len(part)))]
    assert len(validation) == 5
    assert len(seen) == len(set(seen)) == 20


def test_answers_only_are_scored(examples: Corpus, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    train, _ = training_sequences(tiny_tokenizer, examples, RecoverConfig(seqlen=256, val_size=0))
    item = train[2]
    answer = item["input_ids"][item["labels"] != IGNORED]
    assert tiny_tokenizer.decode(answer, skip_special_tokens=True) == "one one one "


def test_padding_is_masked_and_not_scored() -> None:
    batch = Padding(0)([sequences_of([3, 5])[0], sequences_of([3, 5])[1]])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]
    assert batch["labels"][0].tolist() == [1, 2, 3, IGNORED, IGNORED]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]
    assert int(scored_tokens(batch["labels"])) == 2 + 4


def test_equal_lengths_need_no_mask() -> None:
    sequences = sequences_of([4, 4])
    assert "attention_mask" not in Padding(0)([sequences[0], sequences[1]])


def test_a_part_of_a_batch_drops_common_padding() -> None:
    sequences = sequences_of([3, 2, 6])
    batch = Padding(0)([sequences[n] for n in range(3)])
    first = part_of_batch(batch, slice(0, 2))
    assert first["input_ids"].tolist() == [[1, 2, 3], [1, 2, 0]]
    assert first["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    last = part_of_batch(batch, slice(2, 3))
    assert last["input_ids"].shape == (1, 6)
    assert "attention_mask" not in last


def test_validation_may_not_take_everything(text: LoadText, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    config = RecoverConfig(seqlen=10, val_size=8)
    with pytest.raises(InputError, match=r"val_size 8 takes 8 windows and .* gives 8, so none is left"):
        training_sequences(tiny_tokenizer, text("0123456789" * 8), config)


def test_early_stopping_needs_validation(text: LoadText, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    config = RecoverConfig(seqlen=10, val_size=0, early_stopping_patience=2)
    with pytest.raises(InputError, match="early stopping needs a validation loss"):
        training_sequences(tiny_tokenizer, text("0123456789" * 8), config)


def test_a_text_shorter_than_a_window_is_refused(text: LoadText, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="one window needs 512"):
        training_sequences(tiny_tokenizer, text("short"), RecoverConfig())


def test_too_few_windows_for_a_share_are_said(
    text: LoadText, tiny_tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for share in (0.05, 0):
        assert (
            training_sequences(tiny_tokenizer, text("0123456789" * 8), RecoverConfig(seqlen=10, val_size=share))[1]
            is None
        )
    assert caplog.messages == [
        "Nothing is set apart for validation: val_size=0.05 of 8 windows is none; val_size=1 sets one apart"
    ]
