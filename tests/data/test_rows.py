"""Rows as people have them: conversations, prompts with answers, and text in any column."""

import json
from pathlib import Path
from typing import Any

import pytest

from secateur.data import Conversation, Example, load_corpus
from secateur.data.options import DataOptions
from secateur.errors import DataError

USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
TALK = Conversation((USER, REPLY))


def written(path: Path, rows: list[Any]) -> str:
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER, REPLY], "source": "x"}, TALK),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}, TALK),
        ({"conversations": [USER, REPLY]}, TALK),
        ({"prompt": [USER], "completion": [REPLY]}, Conversation((USER, REPLY), answers_from=1)),
        ({"prompt": "Hi", "completion": "Hello."}, Example("Hi", "", "Hello.")),
        ({"question": "Hi", "answer": "Hello."}, Example("Hi", "", "Hello.")),
        ({"instruction": "Hi", "context": "morning", "response": "Hello."}, Example("Hi", "morning", "Hello.")),
        ({"text": "as text", "instruction": "Hi", "output": "Hello."}, Example("Hi", "", "Hello.")),
        ({"prompt": "Hi", "messages": [USER, REPLY]}, TALK),
    ],
)
def test_columns_by_their_usual_names(tmp_path: Path, suffix: str, row: dict[str, Any], expected: Any) -> None:
    corpus = load_corpus(written(tmp_path / f"rows{suffix}", [row, row]))
    assert list(corpus.examples) == [expected, expected] and not corpus.documents
    assert f"2 {'conversations' if isinstance(expected, Conversation) else 'examples'}" in corpus.description


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_columns_by_name(tmp_path: Path, suffix: str) -> None:
    file = written(tmp_path / f"rows{suffix}", [{"body": "some text", "q": "Hi", "a": "Hello.", "on": "it"}])
    assert load_corpus(file, options=DataOptions(text_column="body")).documents == ["some text"]
    asked = DataOptions(prompt_column="q", answer_column="a", input_column="on")
    assert load_corpus(file, options=asked).examples == [Example("Hi", "it", "Hello.")]
    with pytest.raises(DataError, match="has no column 'txt'; it has 'body', 'q', 'a', 'on'"):
        load_corpus(file, options=DataOptions(text_column="txt"))
    with pytest.raises(DataError, match=r"name others: (--text-column|text_column=)"):
        load_corpus(file)


def test_options_that_do_not_go_together() -> None:
    for wrong in (
        {"prompt_column": "q"},
        {"input_column": "i"},
        {"text_column": "t", "prompt_column": "q", "answer_column": "a"},
    ):
        with pytest.raises(ValueError, match="column"):
            DataOptions(**wrong)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [{"content": "Hi"}, REPLY]}, "message 1 has no 'role' (or ShareGPT's 'from')"),
        ({"messages": [{"role": "bot", "content": "Hi"}]}, "message 1 has the unknown role 'bot'; known are system,"),
        ({"messages": []}, "the conversation in 'messages' is empty"),
        ({"messages": [USER]}, "the conversation has no turn of the assistant"),
        ({"messages": "Hi"}, "'messages' is a str; it must be a list of messages in every row"),
        ({"messages": ["Hi"]}, "message 1 is a str; it must be an object"),
        ({"messages": [USER, {"role": "assistant"}]}, "message 2 (assistant) has no 'content'"),
        ({"messages": [{"role": "user", "content": 3}, REPLY]}, "message 1: its content is a int"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, REPLY]},
            "message 1 has a part of type 'image'; only parts of text can be used",
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}, REPLY]}, "'messages' holds half of a surrogate pair"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": ["f"]}]}, "message 2: its 'tool_calls' are no list"),
        ({"messages": [USER, REPLY], "tools": "[{"}, "'tools' is text and no JSON"),
        ({"messages": [USER, REPLY], "tools": [1]}, "'tools' is no list of JSON schemas"),
        ({"text": "other columns"}, "'messages' is missing"),
        ({"conversations": [USER, REPLY]}, "'messages' is missing"),
    ],
)
def test_a_bad_row_is_one_line_with_its_place(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    file = written(tmp_path / "chat.jsonl", [{"messages": [USER, REPLY]}, row])
    with pytest.raises(DataError) as caught:
        load_corpus(file)
    assert str(caught.value).startswith(f"{file}, line 2: {said}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"conversations": [{"from": "bot", "value": "Hi"}]}, "unknown role 'bot'; known are human, gpt, system, tool"),
        ({"conversations": [{"from": "human"}]}, "message 1 (human) has no 'value'"),
        ({"prompt": [USER], "completion": "Hello."}, "'prompt' holds messages and 'completion' none"),
        ({"prompt": [USER], "completion": [USER]}, "the conversation has no turn of the assistant"),
        ({"prompt": "Hi", "completion": [REPLY]}, "'completion' is a list; it must be text"),
    ],
)
def test_a_bad_row_of_other_columns(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    file = written(tmp_path / "chat.jsonl", [row])
    with pytest.raises(DataError, match="line 1: ") as caught:
        load_corpus(file)
    assert said in str(caught.value)


def test_conversations_of_a_large_file_are_read_when_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.data.lazy.LARGE", 1000)
    rows = [{"messages": [{"role": "user", "content": f"{n}" * 400}, REPLY]} for n in range(30)]
    file = written(tmp_path / "chat.jsonl", [*rows, {"messages": []}])
    corpus = load_corpus(file)
    assert corpus.large and not isinstance(corpus.examples, list) and len(corpus.examples) == 31
    assert next(iter(corpus.examples)) == Conversation((rows[0]["messages"][0], REPLY))
    with pytest.raises(DataError, match="line 31: the conversation in 'messages' is empty"):
        list(corpus.examples)
