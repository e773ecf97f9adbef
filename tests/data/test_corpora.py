import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from secateur.data import Corpus, alpaca_prompt, corpus_names, load_corpus
from secateur.errors import DataError


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.json"
    rows = [{"instruction": f"Say {n}.", "input": "x" * (n % 2), "output": str(n)} for n in range(10)]
    path.write_text(json.dumps(rows))
    return path


def test_pydocs_splits_are_four_fifths_and_the_rest() -> None:
    train, test = load_corpus("pydocs", "train"), load_corpus("pydocs", "test")
    share = len(train.text) / (len(train.text) + len(test.text))
    assert 0.75 < share < 0.87
    assert len(test.text) > 50_000
    assert train.source == test.source
    assert train.fingerprint != test.fingerprint
    assert (train.split, test.split) == ("train", "test")


def test_no_paragraph_of_the_test_split_was_trained_on() -> None:
    train, test = (
        {
            " ".join(part.split())
            for document in load_corpus("pydocs", split).documents
            for part in document.split("\n\n")
        }
        for split in ("train", "test")
    )
    assert train & test <= {""}


def test_the_training_split_is_topics_in_alphabetical_order() -> None:
    from pydoc_data.topics import topics

    documents = load_corpus("pydocs").documents
    assert documents == [topics[name] for name in sorted(topics)][: len(documents)]


def test_loading_twice_gives_the_same() -> None:
    assert load_corpus("pydocs", "test") == load_corpus("pydocs", "test")


def test_the_description_is_one_line_with_the_size() -> None:
    corpus = load_corpus("pydocs", "test")
    assert corpus.description.startswith("pydocs (CPython 3.")
    assert f"test split, {len(corpus.text):,} characters" in corpus.description


def test_a_part_of_a_named_corpus_is_a_part_of_the_split() -> None:
    whole, first, second = (load_corpus(f"pydocs{part}", "test") for part in ("", "[:40%]", "[40%:]"))
    assert first.documents + second.documents == whole.documents
    assert first.name == "pydocs[:40%]" and "part [:40%]" in first.description


def test_parts_of_a_text_file_partition_its_characters_and_share_the_source(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(97 + n % 26) for n in range(1003)))
    first, second = load_corpus(f"{path}[:80%]"), load_corpus(f"{path}[80%:]", "test")
    assert len(first.text) == 802
    assert first.text + second.text == path.read_text()
    assert first.source == second.source == load_corpus(str(path)).source
    assert first.split == "all"


def test_a_file_is_used_whole_whatever_the_split(instructions: Path) -> None:
    assert load_corpus(str(instructions), "train") == load_corpus(str(instructions), "test")


def test_a_copied_file_is_the_same_source_and_another_file_is_not(instructions: Path) -> None:
    copy = instructions.with_name("copy.json")
    shutil.copy(instructions, copy)
    other = instructions.with_name("other.txt")
    other.write_text("something else")
    assert load_corpus(str(copy)).source == load_corpus(str(instructions)).source
    assert load_corpus(str(other)).source != load_corpus(str(instructions)).source


def test_instruction_data_read_as_text_is_prompts_and_answers(instructions: Path) -> None:
    corpus = load_corpus(f"{instructions}[:20%]")
    assert corpus.documents == [] and len(corpus.examples) == 2
    first, second = corpus.examples
    assert corpus.text == f"{alpaca_prompt(first)}0\n\n{alpaca_prompt(second)}1"
    assert "2 examples" in corpus.description


def test_the_fingerprint_follows_the_content(instructions: Path) -> None:
    corpus = load_corpus(str(instructions))
    rows = json.loads(instructions.read_text())
    rows[3]["output"] = "another"
    instructions.write_text(json.dumps(rows))
    assert load_corpus(str(instructions)).fingerprint != corpus.fingerprint


def refusal(name: str) -> str:
    with pytest.raises(DataError) as caught:
        load_corpus(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "near"), [("pydoc", "pydocs"), ("WikiText-2", "wikitext2"), ("alpacca", "alpaca")])
def test_an_unknown_name_names_the_nearest_and_all_known(name: str, near: str) -> None:
    message = refusal(name)
    assert f"did you mean {near}?" in message
    assert all(known in message for known in corpus_names())
    assert ".txt, .jsonl, .json or .parquet" in message


def test_an_unknown_name_like_no_other_gets_no_guess() -> None:
    assert "did you mean" not in refusal("zzzzzz")


@pytest.mark.parametrize("times", [1, 100])
def test_a_text_in_the_place_of_its_name_is_told_where_texts_go(times: int) -> None:
    assert refusal("the river rose by a hand " * times).endswith(
        "texts themselves go in a list, in evaluate as data=[texts]"
    )


def test_a_name_longer_than_a_file_name_may_be_is_refused() -> None:
    assert len(refusal("word " * 2000)) < 300


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_an_empty_text_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "text.txt"
    path.write_text(content)
    assert "holds no text" in refusal(str(path))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("[]" if name == "rows.json" else "")
    assert "holds no text" in refusal(str(path))


def test_a_part_too_small_for_one_document_is_refused(instructions: Path) -> None:
    assert "[:5%] of 10 rows or documents is none" in refusal(f"{instructions}[:5%]")


def test_half_of_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a \\ud800 b"}\n')
    assert "surrogate" in refusal(str(path))


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="'train' or 'test'"):
        load_corpus("pydocs", "validation")  # type: ignore[arg-type]


def test_a_corpus_does_not_change() -> None:
    corpus: Corpus = load_corpus("pydocs")
    with pytest.raises(dataclasses.FrozenInstanceError):
        corpus.name = "another"  # type: ignore[misc]


def test_a_home_of_nobody() -> None:
    with pytest.raises(DataError, match=r"^~nobody-of-that-name/text\.txt does not exist"):
        load_corpus("~nobody-of-that-name/text.txt")
