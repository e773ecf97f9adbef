import json
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from secateur.data import Example, alpaca_prompt, load_corpus, token_windows, tokenize_examples
from secateur.data.instruction import IGNORED
from secateur.errors import DataError, InputError

pytestmark = pytest.mark.usefixtures("private_cache")
EOS = 257

WORDS = st.text(max_size=40)
EXAMPLES = st.lists(st.builds(Example, WORDS, WORDS, WORDS), min_size=1, max_size=6)


def number(value: int, words: int = 0) -> Example:
    return Example(f"Say {value}." + " please" * words, "", f"{value:04d}")


def answer(tokenizer: PreTrainedTokenizerFast, sequence: dict[str, list[int]]) -> str:
    return str(tokenizer.decode([label for label in sequence["labels"] if label != IGNORED]))


def test_the_prompt_is_alpacas_with_and_without_input() -> None:
    assert alpaca_prompt(Example("Add {x}.", "1 2", "3")) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd {x}.\n\n### Input:\n1 2\n\n### Response:\n"
    )
    assert alpaca_prompt(Example("Greet.", "", "Hello")) == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nGreet.\n\n### Response:\n"
    )


@given(examples=EXAMPLES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_the_loss_is_on_the_answer_and_the_end_only(
    tiny_tokenizer: PreTrainedTokenizerFast, examples: list[Example]
) -> None:
    sequences = tokenize_examples(tiny_tokenizer, examples, 4096)
    assert len(sequences) == len(examples)
    for example, sequence in zip(examples, sequences, strict=True):
        prompt = tiny_tokenizer(alpaca_prompt(example))["input_ids"]
        expected = [*tiny_tokenizer(example.output)["input_ids"], EOS]
        assert sequence["input_ids"] == prompt + expected
        assert sequence["labels"] == [IGNORED] * len(prompt) + expected


@given(examples=EXAMPLES, seqlen=st.integers(150, 320))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_sequences_are_cut_and_those_without_answer_dropped(
    tiny_tokenizer: PreTrainedTokenizerFast, examples: list[Example], seqlen: int
) -> None:
    whole = tokenize_examples(tiny_tokenizer, examples, 4096)
    cut = [{key: values[:seqlen] for key, values in sequence.items()} for sequence in whole]
    expected = [sequence for sequence in cut if any(label != IGNORED for label in sequence["labels"])]
    if expected:
        assert tokenize_examples(tiny_tokenizer, examples, seqlen) == expected
    else:
        with pytest.raises(DataError, match="raise seqlen="):
            tokenize_examples(tiny_tokenizer, examples, seqlen)


def test_dropped_examples_are_counted_in_the_log(
    tiny_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    examples = [number(1), number(2, words=100), number(3)]
    with caplog.at_level(logging.WARNING, "secateur"):
        sequences = tokenize_examples(tiny_tokenizer, examples, 300)
    assert [answer(tiny_tokenizer, sequence) for sequence in sequences] == ["0001<eos>", "0003<eos>"]
    assert "1 of 3 examples are left out" in caplog.text


def test_a_limit_counts_what_is_kept(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [number(n, words=100 * (n % 2)) for n in range(20)]
    sequences = tokenize_examples(tiny_tokenizer, examples, 300, limit=4)
    assert [answer(tiny_tokenizer, sequence)[:4] for sequence in sequences] == [
        "0000",
        "0002",
        "0004",
        "0006",
    ]


def test_a_seed_chooses_in_order_and_the_same_each_time(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [number(n) for n in range(50)]
    runs = [
        [answer(tiny_tokenizer, s) for s in tokenize_examples(tiny_tokenizer, examples, 300, limit=10, seed=seed)]
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert runs[0] == sorted(set(runs[0])) and len(runs[0]) == 10


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, with two line breaks as one token, and a first and a last token of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([*alphabet, "ĊĊ", "<bos>", "<eos>"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<bos>", "<eos>"])
    backend.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 257), ("<eos>", 258)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")


def test_special_tokens_are_not_doubled_and_a_token_over_the_border_is_answer() -> None:
    tokenizer = merging_tokenizer()
    first, second = tokenize_examples(tokenizer, [Example("Go.", "", "yes"), Example("Go.", "", "\nyes")], 300)
    for sequence in (first, second):
        assert sequence["input_ids"][0] == 257 and sequence["input_ids"].count(257) == 1
        assert sequence["input_ids"][-1] == 258 and sequence["input_ids"].count(258) == 1
    assert answer(tokenizer, first) == "yes<eos>"
    assert answer(tokenizer, second) == "\n\nyes<eos>"


def test_a_tokenizer_without_end_of_text_adds_none(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    endless = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer)
    (sequence,) = tokenize_examples(endless, [number(7), Example("Say nothing.", "", "")], 300)
    assert answer(endless, sequence) == "0007"
    # The end is part of what is cached: the same text with an end must not reuse tokens without one.
    assert tokenize_examples(tiny_tokenizer, [number(7)], 300)[0]["labels"][-1] == EOS


def test_tokens_are_kept_and_reused_for_every_length(
    tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [number(n) for n in range(5)]
    first = tokenize_examples(tiny_tokenizer, examples, 300)

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", refuse)
    assert tokenize_examples(tiny_tokenizer, examples, 300) == first
    assert len(tokenize_examples(tiny_tokenizer, examples, 175)) == 5
    assert len(list((private_cache / "tokens").iterdir())) == 1


def test_numbers_and_data_that_cannot_be_used_are_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError):
        tokenize_examples(tiny_tokenizer, [number(1)], 0)
    with pytest.raises(InputError):
        tokenize_examples(tiny_tokenizer, [number(1)], 300, limit=0)
    with pytest.raises(DataError, match="none of 0 examples"):
        tokenize_examples(tiny_tokenizer, [], 300)


def test_instruction_data_serves_as_plain_text(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps({"instruction": f"Say {n}.", "output": str(n)}) for n in range(9)))
    windows = token_windows(tiny_tokenizer, load_corpus(str(path)), 64)
    assert tiny_tokenizer.decode(windows.flatten()) == load_corpus(str(path)).text[: windows.numel()]
