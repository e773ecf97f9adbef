"""Files that are too large to be held: read anew, up to what is needed, with the same content as ever."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from pyarrow import parquet
from transformers import PreTrainedTokenizerFast

from secateur.data import Corpus, Example, corpora, lazy, load_corpus, reading, token_windows, tokenize_examples
from secateur.errors import DataError

pytestmark = pytest.mark.usefixtures("private_cache")

SUFFIXES = [".txt", ".jsonl", ".json", ".parquet"]
PARTS = ["", "[:80%]", "[80%:]", "[20%:60%]", "[:1.5%]"]
Large = Callable[[], None]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Large:
    """Calling it makes a file of 1,000 characters large, and blocks that are read small."""

    def make() -> None:
        monkeypatch.setattr(lazy, "LARGE", 1000)
        monkeypatch.setattr(corpora, "LARGE", 1000)
        monkeypatch.setattr(reading, "_BLOCK", 700)
        monkeypatch.setattr(reading, "_JSON_AT_ONCE", 1000)

    return make


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".txt":
        path.write_bytes("\r\n".join(row["text"] for row in rows).encode("utf-8-sig"))
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8-sig")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), "utf-8")
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=70)
    return path


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"text": f"{number:05d} größer “x” 日本 😀\n{'y' * (number % 50)}"} for number in range(count)]


@pytest.fixture(params=SUFFIXES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / f"rows{request.param}", numbered(300))


@pytest.mark.parametrize("part", PARTS)
def test_a_large_file_holds_what_a_small_one_does(file: Path, large: Large, part: str) -> None:
    small = load_corpus(f"{file}{part}")
    large()
    corpus = load_corpus(f"{file}{part}")
    assert not small.large and corpus.large == (len(small.text) > 1000)
    assert list(corpus.documents) == small.documents
    assert (corpus.text, corpus.source, len(corpus.documents)) == (small.text, small.source, len(small.documents))


def test_the_fingerprint_of_a_large_file_follows_content_and_part(file: Path, large: Large) -> None:
    large()
    first = load_corpus(str(file))
    assert load_corpus(str(file)).fingerprint == first.fingerprint
    assert len({load_corpus(f"{file}{part}").fingerprint for part in PARTS}) == len(PARTS)
    write(file, numbered(301))
    assert load_corpus(str(file)).fingerprint != first.fingerprint


def test_the_first_windows_are_those_of_the_whole_text(
    file: Path, large: Large, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    small = load_corpus(str(file))
    whole = token_windows(tiny_tokenizer, small, 16)
    strided = token_windows(tiny_tokenizer, small, 16, stride=4, limit=9)
    large()
    corpus = load_corpus(str(file))
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 16), whole)
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 16, limit=5), whole[:5])
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 16, stride=4, limit=9), strided)
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 16, limit=100_000), whole)


def test_many_windows_of_a_large_text_are_chosen_as_of_a_small_one(
    file: Path, large: Large, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    many = token_windows(tiny_tokenizer, load_corpus(str(file)), 16, limit=300, seed=4)
    large()
    assert torch.equal(token_windows(tiny_tokenizer, load_corpus(str(file)), 16, limit=300, seed=4), many)


@pytest.fixture(params=[".txt", ".jsonl", ".parquet", "one row"])
def long_text(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Numbers of 8 digits, as many lines or rows, or in one row."""
    rows: list[dict[str, Any]] = [{"id": "x" * 30, "text": f"{number:08d}"} for number in range(20_000)]
    if request.param == "one row":
        return write(tmp_path / "long.jsonl", [{"text": "\n".join(row["text"] for row in rows)}])
    return write(tmp_path / f"long{request.param}", rows)


def test_windows_are_drawn_from_a_large_text_by_places(
    long_text: Path, large: Large, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    large()
    corpus = load_corpus(str(long_text))
    assert corpus.large
    drawn = {
        (limit, seed): token_windows(tiny_tokenizer, corpus, 32, limit=limit, seed=seed)
        for limit, seed in ((10, 1), (30, 1), (30, 2))
    }
    texts = [tiny_tokenizer.decode(window) for window in drawn[30, 1]]
    numbers = [sorted(int(word) for word in text.split() if len(word) == 8) for text in texts]
    seen = [number for found in numbers for number in found]
    assert seen == sorted(set(seen)) and len(numbers) == 30  # in the text's order, and nothing twice
    assert max(seen) - min(seen) > 10_000
    assert {tuple(window) for window in drawn[10, 1].tolist()} < {tuple(window) for window in drawn[30, 1].tolist()}
    assert not torch.equal(drawn[30, 1], drawn[30, 2])
    assert torch.equal(token_windows(tiny_tokenizer, load_corpus(str(long_text)), 32, limit=30, seed=1), drawn[30, 1])


def test_windows_drawn_from_the_two_sides_of_a_cut_share_nothing(
    long_text: Path, large: Large, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    large()
    first, second = (
        " ".join(
            tiny_tokenizer.decode(window)
            for window in token_windows(tiny_tokenizer, load_corpus(f"{long_text}{part}"), 32, limit=30, seed=1)
        )
        for part in ("[:50%]", "[50%:]")
    )
    assert max(int(word) for word in first.split() if len(word) == 8) <= 10_000
    assert min(int(word) for word in second.split() if len(word) == 8) >= 9_999


def test_no_more_is_parsed_and_tokenised_than_is_asked_for(
    tmp_path: Path, large: Large, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.jsonl", [{"text": f"{number:08d} " * 20} for number in range(3_000)])
    large()
    parsed: list[str] = []
    given: list[int] = []
    loads, call = json.loads, PreTrainedTokenizerFast.__call__

    def counted(text: str) -> Any:
        parsed.append(text)
        return loads(text)

    def measured(self: PreTrainedTokenizerFast, text: str | list[str], **options: object) -> object:
        given.extend(map(len, [text] if isinstance(text, str) else text))
        return call(self, text, **options)

    monkeypatch.setattr(reading.json, "loads", counted)
    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", measured)
    assert token_windows(tiny_tokenizer, load_corpus(str(path)), 32, limit=10, seed=0).shape == (10, 32)
    assert len(parsed) < 1000 and sum(given) < 60_000


@pytest.mark.slow
def test_a_damaged_row_that_is_not_reached_is_not_minded_and_one_that_is_is_named(
    tmp_path: Path, large: Large, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [json.dumps({"text": f"{number} {'y' * 1000}"}) for number in range(2_000)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*rows[:1500], '{"text": 7}', *rows[1500:]]))
    large()
    corpus = load_corpus(str(path))
    assert token_windows(tiny_tokenizer, corpus, 16, limit=3).shape == (3, 16)
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1,501: 'text' is a int"):
        token_windows(tiny_tokenizer, corpus, 16)


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        ('{"data": []}', "no list of rows"),
        ('[{"text": "a"},\n{"text": b}]', "line 2, column 10: no valid JSON"),
        ('[{"text": "a"}\n{"text": "b"}]', "line 2, column 1: no valid JSON"),
        ('[{"text": "a"},\n', "no valid JSON"),
        ('[{"text": "a"},\n{"text": "never ended', "line 2, column 10: no valid JSON (Unterminated"),
        ('[{"text": "a"}] 3', "Extra data"),
        ('[{"text": "a"},\n' + "[" * 100_000, "nested too deeply"),
        ('[{"text": "a"}, {"text": "\\ud800"}]', "row 2: 'text' holds half of a surrogate pair"),
        ('[{"text": "a"}, {"other": "a"}]', "row 2: 'text' is missing"),
    ],
)
def test_a_damaged_large_list_is_refused_as_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, refusal: str
) -> None:
    monkeypatch.setattr(reading, "_JSON_AT_ONCE", 0)
    monkeypatch.setattr(reading, "_BLOCK", 5)
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        load_corpus(str(path))
    assert refusal in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1000])
def test_blocks_end_within_letters_and_ends_of_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffone\r\n\r\r\ntwo ü\r日\n\r\n😀\r".encode())
    monkeypatch.setattr(reading, "_BLOCK", block)
    assert load_corpus(str(path)).text == "one\n\r\ntwo ü\r日\n\n😀\r"
    path.write_bytes("日本".encode() + b"caf\xe9 au lait")
    with pytest.raises(DataError, match="not UTF-8: byte 9 is 0xe9"):
        load_corpus(str(path))
    path.write_bytes("日本".encode()[:-1])
    with pytest.raises(DataError, match="not UTF-8: byte 3 is 0xe6"):
        load_corpus(str(path))


@pytest.fixture(params=[".jsonl", ".json", ".parquet"])
def examples(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    wordy = " please" * 100
    rows = [
        {"instruction": f"Say {number}.{'' if number % 3 else wordy}", "input": "", "output": f"{number:05d}"}
        for number in range(400)
    ]
    return write(tmp_path / f"tasks{request.param}", rows)


def answers(tokenizer: PreTrainedTokenizerFast, corpus: Corpus, **options: int) -> list[int]:
    sequences = tokenize_examples(tokenizer, corpus.examples, 300, **options)
    return [int(str(tokenizer.decode([x for x in found["labels"] if x >= 0]))[:5]) for found in sequences]


def test_examples_of_a_large_file_are_those_of_a_small_one(
    examples: Path, large: Large, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    small = load_corpus(str(examples))
    whole = tokenize_examples(tiny_tokenizer, small.examples, 300)
    large()
    corpus = load_corpus(str(examples))
    assert corpus.large and not isinstance(corpus.examples, list)
    assert list(corpus.examples)[2] == Example("Say 2.", "", "00002")
    assert corpus.text == small.text
    assert tokenize_examples(tiny_tokenizer, corpus.examples, 300) == whole
    assert answers(tiny_tokenizer, corpus, limit=4) == [1, 2, 4, 5]
    drawn = answers(tiny_tokenizer, corpus, limit=20, seed=3)
    assert drawn == answers(tiny_tokenizer, load_corpus(str(examples)), limit=20, seed=3)
    assert drawn == sorted(set(drawn)) and len(drawn) == 20 and all(number % 3 for number in drawn)
    assert drawn[-1] > 200
    assert answers(tiny_tokenizer, corpus, limit=200, seed=3) == answers(tiny_tokenizer, small, limit=200, seed=3)


def test_a_file_of_20_mb_takes_a_fraction_of_that(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "text.txt"
    path.write_text("a line of 20 letters\n" * 1_000_000)
    tracemalloc.start()
    try:
        corpus = load_corpus(f"{path}[10%:]")
        token_windows(tiny_tokenizer, corpus, 64, limit=8, seed=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert corpus.description == "text.txt, part [10%:], 18,900,000 characters"
    assert peak < 16_000_000
