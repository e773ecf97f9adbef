import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from secateur.data import Example, reading
from secateur.data.lazy import open_file
from secateur.errors import DataError

TEXT_ROWS: list[dict[str, Any]] = [{"text": "first – ü"}, {"text": ""}, {"text": "third", "extra": None}]
ALPACA_ROWS: list[dict[str, Any]] = [
    {"instruction": "Add.", "input": "1 2", "output": "3", "text": "all of it"},
    {"instruction": "Greet.", "input": None, "output": "Hello", "text": "all of it"},
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), "utf-8")
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_rows_of_text_become_documents(tmp_path: Path, suffix: str) -> None:
    documents, examples = open_file(write_rows(tmp_path / f"rows{suffix}", TEXT_ROWS))
    assert documents == ["first – ü", "", "third"]
    assert examples == []


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_alpaca_rows_become_examples_though_they_have_a_text(tmp_path: Path, suffix: str) -> None:
    documents, examples = open_file(write_rows(tmp_path / f"rows{suffix}", ALPACA_ROWS))
    assert documents == []
    assert examples == [Example("Add.", "1 2", "3"), Example("Greet.", "", "Hello")]


def test_alpaca_rows_need_no_input_column(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"instruction": "Greet.", "output": "Hello"}])
    assert open_file(path) == ([], [Example("Greet.", "", "Hello")])


def test_a_text_file_is_one_document_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "text.TXT"
    path.write_bytes("\ufeffone\r\n\r\ntwo ü\n".encode())
    assert open_file(path) == (["one\n\ntwo ü\n"], [])


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_file(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.txt")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "corpus.txt"
    directory.mkdir()
    assert "is a directory" in refusal(directory)


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "text.docx"
    path.write_bytes(b"PK")
    assert ".txt, .jsonl, .json or .parquet" in refusal(path)


@pytest.mark.parametrize("name", ["text.txt", "rows.jsonl", "rows.json"])
def test_bytes_that_are_not_utf8_are_refused_with_their_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"caf\xe9 au lait")
    assert "not UTF-8: byte 3 is 0xe9" in refusal(path)


def test_a_bad_json_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"\n{"text": "c"}\n')
    assert "line 3" in refusal(path)


def test_a_bad_json_file_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"text": "a"},\n{"text": b}\n]')
    assert "line 3" in refusal(path)


def test_json_lines_named_json_are_refused_with_the_right_suffix(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    assert ".jsonl" in refusal(path)
    path.write_text('{"data": [{"text": "a"}]}')
    assert "no list of rows" in refusal(path)


def test_json_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("[" * 200_000)
    assert "nested too deeply" in refusal(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "long.json"])
def test_a_number_of_too_many_digits_is_refused_with_its_row(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "long.json":
        monkeypatch.setattr(reading, "_JSON_AT_ONCE", 0)
    rows = ['{"text": "a"}', f'{{"text": "b", "n": 1{"0" * 5000}}}']
    (tmp_path / name).write_text("\n".join(rows) if name == "rows.jsonl" else f"[{rows[0]},\n{rows[1]}]")
    message = refusal(tmp_path / name)
    assert "line 2" in message and "no valid JSON (a number of too many digits)" in message


def test_a_row_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n"b"\n')
    assert "line 2" in refusal(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_file_without_a_usable_column_is_refused_with_its_columns(tmp_path: Path, suffix: str) -> None:
    message = refusal(write_rows(tmp_path / f"rows{suffix}", [{"content": "a", "output": "b"}]))
    assert "'content', 'output'" in message and "'text'" in message and "'instruction'" in message


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_row_without_text_is_named(tmp_path: Path, suffix: str) -> None:
    place = "line 2" if suffix == ".jsonl" else "row 2"
    message = refusal(write_rows(tmp_path / f"rows{suffix}", [{"text": "a"}, {"text": None}]))
    assert place in message and "'text' is missing" in message


def test_a_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    assert "'text' is a int" in refusal(write_rows(tmp_path / "rows.parquet", [{"text": 7}]))


@pytest.mark.parametrize("damage", ["truncated", "no parquet", "empty", "middle"])
def test_a_damaged_parquet_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = write_rows(tmp_path / "rows.parquet", [{"text": f"row {number}" * 50} for number in range(200)])
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[4:200] = bytes(196)
    path.write_bytes({"truncated": whole[:-40], "no parquet": b"hello", "empty": b"", "middle": bytes(broken)}[damage])
    assert "no readable parquet file" in refusal(path) or "cannot be read" in refusal(path)
