"""Several sources with shares, and Python objects as data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import PreTrainedTokenizerFast

from secateur.calibration.windows import CalibratedConfig
from secateur.data import DataOptions, InMemory, inputs_of, load_corpus, pack_examples, texts_of, token_windows
from secateur.data.sources import shares_of
from secateur.errors import DataError, InputError
from secateur.evaluation import EvaluateConfig
from secateur.models import configured
from secateur.recovery import RecoverConfig
from secateur.recovery.datasets import Amount, training_sequences

pytestmark = pytest.mark.usefixtures("private_cache")
TEXTS = ["a text about one thing", "another about something else"]
ROWS = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]} for n in range(5)
]


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """Two texts of one letter each, 400 and 100 characters."""
    (tmp_path / "a.txt").write_text("a" * 400)
    (tmp_path / "b.txt").write_text("b" * 100)
    return tmp_path


def count_of(windows: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    first = [tokenizer.decode(row[:1].tolist()) for row in windows]
    return first.count("a"), first.count("b")


@pytest.mark.parametrize(
    ("shares", "limit", "expected"),
    [
        ("{0}/a.txt:0.7,{0}/b.txt:0.3", 10, (7, 3)),
        ("{0}/a.txt:70%,{0}/b.txt:30%", 10, (7, 3)),
        ("{0}/a.txt:3,{0}/b.txt:1", 4, (3, 1)),
        ("{0}/a.txt:3,{0}/b.txt:1", 1, (1, 0)),
        ("{0}/a.txt[:50%]:0.5,{0}/b.txt[50%:]:0.5", 4, (2, 2)),
        # The shares hold where a source is short, and as far as they go where all is wanted.
        ("{0}/a.txt:0.5,{0}/b.txt:0.5", 40, (10, 10)),
        ("{0}/a.txt:0.9,{0}/b.txt:0.1", None, (40, 4)),
        ("{0}/a.txt:0.5,{0}/b.txt:0.5", None, (10, 10)),
    ],
)
def test_shares_are_of_windows(
    letters: Path, tiny_tokenizer: PreTrainedTokenizerFast, shares: str, limit: int | None, expected: tuple[int, int]
) -> None:
    corpus = load_corpus(shares.format(letters))
    windows = token_windows(tiny_tokenizer, corpus, 10, limit=limit, seed=3)
    assert count_of(windows, tiny_tokenizer) == expected
    assert torch.equal(windows, token_windows(tiny_tokenizer, corpus, 10, limit=limit, seed=3))


def test_what_a_mixture_is_called(letters: Path) -> None:
    name = f"{letters}/a.txt:0.75,{letters}/b.txt:0.25"
    corpus = load_corpus(name)
    assert corpus.description == "a.txt, 400 characters, share 0.75; b.txt, 100 characters, share 0.25"
    assert corpus.source == "+".join(load_corpus(f"{letters}/{file}").source for file in ("a.txt", "b.txt"))
    assert inputs_of(name, options=DataOptions(chat_template="t.jinja")) == [
        f"{letters}/a.txt",
        f"{letters}/b.txt",
        "t.jinja",
    ]
    assert load_corpus({f"{letters}/a.txt": 0.75, f"{letters}/b.txt": 0.25}).fingerprint == corpus.fingerprint


def test_a_file_of_that_very_name_is_one_source(letters: Path) -> None:
    odd = letters / "x:0.5,y.txt:0.5"
    assert len(shares_of(str(odd))) == 2
    odd.with_name("x:0.5,y.txt").write_text("text")
    assert shares_of(str(odd.with_name("x:0.5,y.txt"))) == [(str(odd.with_name("x:0.5,y.txt")), 1.0)]
    assert load_corpus(str(letters / "a.txt[:50%]")).text == "a" * 200


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.txt,b.txt:0.3", "'a.txt' has no share; write one behind each source, a.jsonl:0.7,b.txt:0.3"),
        ("a.txt:0,b.txt:0.3", "a share of 0 is none"),
        ("nowhere.txt:0.5,pydocs:0.5", "nowhere.txt does not exist"),
        ("a.txt:0.7,b.txt", "'b.txt' has no share"),
        (f"a.txt:{'9' * 400}", "shares are too large"),
        (f"a.txt:0.{'0' * 400}1", "a share of 0 is none"),
    ],
)
def test_shares_that_cannot_be(name: str, said: str) -> None:
    with pytest.raises((DataError, InputError), match=said) as caught:
        load_corpus(name)
    assert len(str(caught.value)) < 200


def test_a_share_in_percent_is_a_ratio() -> None:
    assert [share for _, share in shares_of("a.txt:70%,b.txt:0.3")] == pytest.approx([0.7, 0.3])
    assert shares_of("a.txt:70%") == [("a.txt", 1.0)]


def test_shares_in_a_mapping() -> None:
    assert texts_of({Path("a.txt"): 1e-7, "b.txt": 1}) == ["a.txt:0.0000001,b.txt:1"]


def test_a_source_of_which_nothing_is_taken_is_told(
    letters: Path, tiny_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    token_windows(tiny_tokenizer, load_corpus({letters / "a.txt": 1, letters / "b.txt": 0.01}), 10, limit=4)
    assert "nothing of b.txt is taken: its share is 0.0099" in caplog.text


def test_neighbours_with_shares_are_one_text() -> None:
    assert texts_of(["pydocs", "a.txt:0.7", "b.txt:0.3", "c.txt"]) == ["pydocs", "a.txt:0.7,b.txt:0.3", "c.txt"]
    assert EvaluateConfig(data="pydocs").data == ["pydocs"]  # type: ignore[arg-type]


def test_sources_of_windows_and_of_conversations_are_trained_on_together(
    letters: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = letters / "chat.jsonl"
    chat.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = RecoverConfig(data=f"{chat}:0.5,{letters}/a.txt:0.5", seqlen=400, samples=2, val_size=0)
    corpus = load_corpus(config.data, options=config)
    train, _ = training_sequences(tiny_tokenizer, corpus, config)
    assert [bool((item["labels"] == -100).any()) for item in (train[0], train[1])] == [True, False]
    assert Amount.of(tiny_tokenizer, corpus, config).told(2) == "2 of 6 sequences"


def stream(rows: list[Any], endless: bool = False) -> IterableDataset:
    def read() -> Iterator[Any]:
        while True:
            yield from rows
            if not endless:
                return

    return IterableDataset.from_generator(read)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (TEXTS, "2 texts in memory"),
        ([{"text": text} for text in TEXTS], "2 rows in memory"),
        (Dataset.from_list([{"text": text} for text in TEXTS]), "2 rows in memory"),
        (tuple(TEXTS), "2 texts in memory"),
    ],
)
def test_texts_in_memory(data: Any, name: str) -> None:
    corpus = load_corpus(data)
    assert (corpus.name, corpus.documents) == (name, TEXTS)
    assert corpus.source == load_corpus(TEXTS).source and not corpus.large


def test_rows_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    examples = load_corpus(file).examples
    for data in (ROWS, Dataset.from_list(ROWS)):
        assert list(load_corpus(data).examples) == list(examples)
    with pytest.raises(DataError, match=r"^2 rows in memory, row 2: 'messages' is missing"):
        load_corpus([ROWS[0], {"text": "x"}])


def test_a_large_data_set_is_not_held(monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = Dataset.from_list([{"text": f"{n:04d} " * 40} for n in range(200)])
    whole = token_windows(tiny_tokenizer, load_corpus(data), 16)
    monkeypatch.setattr("secateur.data.lazy.LARGE", 1000)
    corpus = load_corpus(data)
    assert corpus.large and not isinstance(corpus.documents, list)
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 16), whole)
    assert len(token_windows(tiny_tokenizer, corpus, 16, limit=5, seed=1)) == 5


def test_of_a_stream_only_the_beginning_is_read(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = load_corpus(stream([{"text": "0123456789"}], endless=True))
    windows = token_windows(tiny_tokenizer, corpus, 12, limit=3, seed=7)
    assert tiny_tokenizer.decode(windows.flatten().tolist()) == "0123456789\n\n" * 3
    chat = load_corpus(stream(ROWS, endless=True))
    assert token_windows(tiny_tokenizer, chat, 12, limit=3).shape == (3, 12)
    assert len(pack_examples(tiny_tokenizer, chat.examples, 400, 7)[0]) == 7
    with pytest.raises(InputError, match="say how many windows of it to take"):
        token_windows(tiny_tokenizer, corpus, 12)
    with pytest.raises(InputError, match="say how much of it to take with samples"):
        pack_examples(tiny_tokenizer, chat.examples, 400)


def test_tokens_in_memory(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = torch.arange(40, dtype=torch.int32)
    flat, rows = load_corpus(tokens), load_corpus(tokens.view(4, 10))
    assert (flat.name, rows.name) == ("40 tokens in memory", "4 windows of 10 tokens in memory")
    assert token_windows(tiny_tokenizer, flat, 15).tolist() == tokens[:30].view(2, 15).tolist()
    assert token_windows(tiny_tokenizer, rows, 10, limit=2).tolist() == tokens.view(4, 10)[:2].tolist()
    assert token_windows(tiny_tokenizer, rows, 5).shape == (8, 5)
    with pytest.raises(DataError, match="one window needs 11"):
        token_windows(tiny_tokenizer, rows, 11)
    with pytest.raises(DataError, match="999 is no token of the tokenizer's 259"):
        token_windows(tiny_tokenizer, load_corpus(torch.tensor([1, 2, 999])), 2)
    small = load_corpus(torch.arange(10).to(torch.uint16))
    assert token_windows(tiny_tokenizer, small, 10).tolist() == [list(range(10))]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "a list without texts"),
        (["a", {"text": "b"}], "a list of dict and str"),
        (3, "a int is no text"),
        (torch.zeros(3), "a tensor of float32"),
        (torch.zeros(2, 2, 2, dtype=torch.int64), "tokens are integers"),
        (DatasetDict(train=Dataset.from_list([{"text": "a"}])), "choose one of 'train'"),
        ({"a": "b"}, "a mapping is no text"),
        (b"bytes", "a bytes is no text"),
        ("", "an empty name is no text"),
        ({"a.txt": float("nan")}, "a share of nan is none"),
        ({"a.txt": -1, "b.txt": 1}, "a share of -1 is none"),
        ({"a.txt": True}, "a mapping is no text"),
        (torch.zeros(90, dtype=torch.int64, device="meta"), "in memory"),
        (torch.ones(90, dtype=torch.int64).to_sparse(), "in memory"),
        (torch.rand(500), "a tensor of float32"),
    ],
)
def test_what_is_no_text(data: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_corpus(data)
    with pytest.raises(InputError, match=said) as caught:
        configured(CalibratedConfig, None, {"data": data})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_config_holds_the_object_and_tells_its_name() -> None:
    config = configured(CalibratedConfig, CalibratedConfig(data=TEXTS), {"windows": 2})  # type: ignore[arg-type]
    assert isinstance(config.data, InMemory) and config.data.content is TEXTS
    assert json.loads(json.dumps(config.model_dump()))["data"] == "2 texts in memory"
    assert load_corpus(config.data).documents == TEXTS
    assert CalibratedConfig(data=Path("a/b.txt")).data == "a/b.txt"  # type: ignore[arg-type]
    several = EvaluateConfig(data=[TEXTS, ROWS, list(reversed(TEXTS))])  # type: ignore[list-item]
    assert several.data == ["2 texts in memory", "5 rows in memory", "2 texts in memory, 2"]
    assert EvaluateConfig(data=ROWS).data == ["5 rows in memory"]  # type: ignore[arg-type]
