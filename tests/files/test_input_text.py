"""YAML and JSON from outside: bounded in size, depth and repetition; and nothing in them that is no plain value."""

import os
from pathlib import Path

import pytest

from secateur.errors import InputError, OutputError
from secateur.files.input_text import DEEPEST, read_input_text
from secateur.files.json_text import parse_json, read_json
from secateur.files.yaml_text import MOST_NODES, read_yaml

NESTED_ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 6))
NESTED_MERGES = "a0: &a0 {x0: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], x{n}: 1}}\n" for n in range(1, 6)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NESTED_ALIASES, f"line 6: not valid YAML, it stands for more than {MOST_NODES:,} values"),
        (NESTED_MERGES, f"line 5: not valid YAML, it stands for more than {MOST_NODES:,} values"),
        ("a: &a [*a]\n", "line 1: not valid YAML, an alias stands for the value that it is part of"),
        ("a: " + "[" * 500, f"line 1: not valid YAML, nested deeper than {DEEPEST} levels"),
        ("a: 1" + ":1" * 1000, "line 1: not valid YAML, a number of too many digits"),
        ("a: 0x" + "f" * 1000, "line 1: not valid YAML, a number of too many digits"),
        ("a: " + "x" * 2**20, "has 1,048,579 characters, more than the 1,048,576 of YAML that are read"),
        ('a: "\\ud800"', "not valid YAML, it holds half of a surrogate pair"),
        ("a: !!int ''", "not valid YAML, a value is not what its tag says"),
        ("a: !!timestamp x", "not valid YAML, a value is not what its tag says"),
        ("a: 2024-13-45", "not valid YAML, month must be in 1..12"),
    ],
)
def test_yaml_that_would_not_end_or_is_not_plain_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_yaml(text, "r.yaml", "a recipe")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["k{}: 1\n", "k{}: &a{} 1\n"])
def test_yaml_of_too_many_values_is_not_read_to_its_end(line: str) -> None:
    text = "".join(line.format(number, number) for number in range(MOST_NODES)) + "twice: 1\ntwice: [\n"
    with pytest.raises(InputError, match=f"line {MOST_NODES // 2}: .*more than {MOST_NODES:,} values"):
        read_yaml(text, "r.yaml", "a recipe")


def test_aliases_and_merges_that_people_write_are_read() -> None:
    values, lines = read_yaml(
        "base: &b {x: 1, y: [2, 3]}\nmine: {<<: *b, x: 4}\nlist: [*b, *b]\n", "r.yaml", "a recipe"
    )
    assert values["mine"] == {"x": 4, "y": [2, 3]} and values["list"] == [{"x": 1, "y": [2, 3]}] * 2
    assert lines["list", 1, "y"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "it holds NaN, which is no number"),
        ('{"a": -Infinity}', "it holds -Infinity, which is no number"),
        ('{"a": 1e999}', "it holds the number 1e999, which is too large"),
        ('{"a": 9223372036854775808}', "which is too large"),
        ('{"a": 1' + "0" * 5000 + "}", "which is too large"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' is given twice"),
        ("[" * 200 + "]" * 200, f"it is nested deeper than {DEEPEST} levels"),
        ("[" * 100_000 + "]" * 100_000, "it is nested too deep"),
        ('["\\ud800"]', "it holds half of a surrogate pair, which is no character"),
        ("{", "Expecting property name"),
    ],
)
def test_json_is_read_as_the_standard_has_it(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_plain_json_is_read() -> None:
    assert parse_json('{"a": [1, -2.5e3, true, null, "\\u00e9\\ud83d\\ude00"]}') == {
        "a": [1, -2500.0, True, None, "é😀"]
    }
    assert parse_json(str(2**63 - 1)) == 2**63 - 1


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b'"\xe9"')
    (tmp_path / "large").write_text("x" * 2000)
    for name, message in (
        ("none", "cannot be read: No such file or directory"),
        ("pipe", "is no ordinary file"),
        (".", "cannot be read: Is a directory"),
        ("latin", "is not UTF-8 text"),
        ("large", "has 2,000 bytes, more than the 1,000 that are read"),
        ("a\0b", "cannot be read: "),
    ):
        with pytest.raises(OutputError, match=message):
            read_input_text(tmp_path / name, OutputError, largest=1000)
    with pytest.raises(InputError, match=r"large is not a plan: Expecting value.*; make it anew"):
        read_json(tmp_path / "large", "is not a plan", advice="; make it anew")
