"""Results side by side: what is read, what is told apart, what is written and what is left alone."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secateur.comparison.comparison import compare_results, require_place, write_comparison
from secateur.errors import InputError, OutputError
from secateur.report import comparison_markdown, comparison_table, task_table

PNG = b"\x89PNG"


def model(name: str, value: float | None = 10.0, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": 1000,
        "perplexity": {"pydocs": value},
        "windows": {"pydocs": 4},
        "corpora": {"pydocs": "pydocs, test split"},
        "sources": {"pydocs": "pydocs"},
        "seqlen": 32,
        "stride": None,
        "dtype": "float32",
        "tasks": {},
    } | more


def score(acc: float, **more: Any) -> dict[str, Any]:
    return {
        "metrics": {"acc": acc, "acc_norm": acc / 2},
        "stderr": {"acc": 0.05, "acc_norm": None},
        "n": 40,
        "n_shot": 0,
        "prompts": "abc",
        **more,
    }


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def result(file_name: str, *models: dict[str, Any], **more: Any) -> Path:
        file = tmp_path / file_name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"models": models, **more}))
        return file

    return result


def names(*paths: Path) -> list[str]:
    return [row["name"] for row in compare_results(paths).rows]


def test_a_file_a_run_and_a_comparison_are_read(write: Write, tmp_path: Path) -> None:
    file = write("base.json", model("base"))
    run = write("run/metrics.json", model("original"), model("pruned", 12.0, parameters=800), name="demo").parent
    # In a run `perplexity` is the number on the first text.
    content = json.loads((run / "metrics.json").read_text())
    for row in content["models"]:
        row |= {"perplexities": row["perplexity"], "perplexity": 1.0, "samples": []}
    (run / "metrics.json").write_text(json.dumps(content))
    comparison = compare_results([file, run])
    assert [row["name"] for row in comparison.rows] == ["base", "original", "pruned"]
    assert [row["perplexity"]["pydocs"] for row in comparison.rows] == [10.0, 10.0, 12.0]
    assert comparison.results == [("base", str(file)), ("demo", str(run / "metrics.json"))]
    assert comparison.warnings == []
    write_comparison(comparison, tmp_path / "out", title="All", command_line="secateur compare")
    assert names(tmp_path / "out") == names(tmp_path / "out" / "comparison.json") == ["base", "original", "pruned"]


def test_the_four_files(write: Write, tmp_path: Path) -> None:
    file = write("a.json", model("big", tasks={"quiz": score(0.5)}), model("small", 15.0, tasks={"quiz": score(0.4)}))
    page = write_comparison(compare_results([file]), tmp_path / "out", title="All", command_line="the command")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".secateur.json",
        "comparison.html",
        "comparison.json",
        "comparison.md",
        "comparison.png",
    ]
    assert (tmp_path / "out/comparison.png").read_bytes().startswith(PNG)
    html, markdown = page.read_text(), (tmp_path / "out/comparison.md").read_text()
    for text in (html, markdown):
        assert "50.0%" in text and "+50.0%" in text and "4 windows of 32 tokens" in text
    assert "40.0% ±5.0" in html and "−10.0" in html and "the command" in html


def test_what_was_not_measured_alike_never_shares_a_column(write: Write) -> None:
    same, longer = write("a.json", model("a")), write("b.json", model("b", seqlen=64))
    other = write("c.json", model("c", corpora={"pydocs": "of another Python"}))
    rows = compare_results([same, longer, other]).rows
    assert [list(row["perplexity"]) for row in rows] == [["pydocs, 4 × 32"], ["pydocs, 4 × 64"], ["pydocs, 4 × 32 (2)"]]
    (warning,) = compare_results([same, longer, other]).warnings
    assert warning == "Perplexity on pydocs was not measured alike: each way has a column of its own."
    line = next(line for line in comparison_markdown(rows).splitlines() if line.startswith("| b "))
    assert line.split("|")[2:8] == [" – ", " – ", " 10.00 ", " – ", " – ", " – "]
    assert compare_results([same, same]).warnings == []


def test_other_questions_are_another_column(write: Write) -> None:
    one = write("a.json", model("a", tasks={"quiz": score(0.5)}))
    two = write("b.json", model("b", tasks={"quiz": score(0.6, n=10, prompts="def")}))
    comparison = compare_results([one, two])
    assert [list(row["tasks"]) for row in comparison.rows] == [["quiz, n=40, 0 shots"], ["quiz, n=10, 0 shots"]]
    assert "did not ask the same questions" in comparison.warnings[0]
    alike = compare_results([one, write("c.json", model("c", tasks={"quiz": score(0.6)}))])
    assert [list(row["tasks"]) for row in alike.rows] == [["quiz"], ["quiz"]]


def test_formats_and_speeds_that_differ_are_said(write: Write) -> None:
    fast = {"prefill_tokens_per_second": 9.0, "decode_tokens_per_second": 2.0}
    files = [write("a.json", model("a", **fast)), write("b.json", model("b", dtype="bfloat16", **fast))]
    formats, speeds = compare_results(files).warnings
    assert formats == "Models were measured in different number formats: float32: a; bfloat16: b."
    assert "Tokens per second were not measured side by side" in speeds


def test_names_that_are_alike_are_told_apart(write: Write, tmp_path: Path) -> None:
    cut = [model("original"), model("pruned", 20.0), model("recovered", 15.0, recovers="pruned")]
    one, two = (write(f"{part}/metrics.json", *cut, name=name).parent for part, name in (("x", "demo"), ("y", "other")))
    rows = compare_results([one, two]).rows
    assert [row["name"] for row in rows] == [
        f"{run}/{stage}" for run in ("demo", "other") for stage in ("original", "pruned", "recovered")
    ]
    assert [rows[2]["recovers"], rows[5]["recovers"]] == ["demo/pruned", "other/pruned"]
    assert comparison_markdown(rows).count("−42% of the rise") == 2
    assert names(one, one)[3:] == [f"demo/{stage} (2)" for stage in ("original", "pruned", "recovered")]


def test_markup_in_names_is_shown_as_it_is(write: Write, tmp_path: Path) -> None:
    nasty = "<img src=x> | *a* _b_ `c` [d](e)\n# f"
    file = write("a.json", model(nasty), model("plain_name"))
    write_comparison(compare_results([file]), tmp_path / "out", title=nasty, command_line="x")
    markdown = (tmp_path / "out/comparison.md").read_text()
    assert r"\<img src=x\> \| \*a\* \_b\_ \`c\` \[d\](e) \# f" in markdown
    assert "| plain_name |" in markdown
    html = (tmp_path / "out/comparison.html").read_text()
    assert "<img src=x>" not in html and "&lt;img src=x&gt;" in html


def test_tables_fit_the_terminal(write: Write) -> None:
    tasks = {name: score(0.512, n=14042) for name in ("hellaswag", "winogrande", "arc_challenge_of_many")}
    long = [model(f"TinyLlama-1.1B-Chat-v1.0-pruned-{n}", tasks=tasks, values={"prune.ratio": n}) for n in (0.1, 0.2)]
    rows = compare_results([write("a.json", *long)]).rows
    for table in (comparison_table(rows), task_table(rows)):
        assert max(map(len, table.lines(80))) <= 80


def test_changes_are_against_the_uncut_model_of_the_same_family(write: Write, tmp_path: Path) -> None:
    one = write("one.json", {**model("small-pruned"), "family": "a", "parameters": 50})
    other = write("other.json", *({**model(name), "family": family} for name, family in (("small", "a"), ("big", "b"))))
    write_comparison(compare_results([one, other]), tmp_path / "out", title="x", command_line="x")
    lines = (tmp_path / "out/comparison.md").read_text().splitlines()
    changes = [[cell.strip() for cell in line.split("|")][3] for line in lines if re.match(r"\| (small|big)", line)]
    assert changes == ["0.0%", "baseline", "baseline"]


def test_overwrite_replaces_its_own_files_and_nothing_else(write: Write, tmp_path: Path) -> None:
    file, out = write("a.json", model("a")), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="already holds something"):
        require_place(out, False, [file])
    for _ in range(2):
        write_comparison(compare_results([file]), require_place(out, True, [file]), title="All", command_line="x")
    assert (out / "thesis.txt").read_text() == "mine"
    assert len(list(out.iterdir())) == 6
    (out / "sweep.png").write_bytes(b"a reader's own")
    with pytest.raises(OutputError, match=r"sweep.png was not written by secateur"):
        require_place(out, True, [file])
    (out / "sweep.png").unlink()
    with pytest.raises(OutputError, match="is read by this very command"):
        require_place(out, True, [out / "comparison.json"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON: "),
        ("[" * 100_000, "is not JSON: "),
        ("[]", "holds no models"),
        ('{"models": []}', "holds no models"),
        ('{"runs": [1]}', "holds no models"),
        ('{"models": [{"name": "a"}]}', "parameters: Field required"),
        (
            '{"models": [{"name": "a", "parameters": 5, "perplexity": {"x": 3}}]}',
            "windows or corpora say nothing about x",
        ),
        (
            '{"models": [{"name": "a", "parameters": 5, "perplexity": {"x": -1}}]}',
            "perplexity.x: Input should be greater than 0",
        ),
        ('{"models": [{"name": "a", "parameters": 5, "sparsity": NaN}]}', "it holds NaN, which is no number"),
    ],
)
def test_a_file_that_is_no_result(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        compare_results([file])
    assert message in str(caught.value) and str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_place_that_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        compare_results([tmp_path / "none"])
    with pytest.raises(InputError, match=r"holds neither metrics\.json nor sweep\.json"):
        compare_results([tmp_path])


def test_models_without_perplexity_or_of_one_size_are_drawn(write: Write, tmp_path: Path) -> None:
    bare = {"perplexity": {}, "windows": {}, "corpora": {}}
    file = write("a.json", model("a", **bare, tasks={"quiz": score(0.5)}), model("b", None), model("c", **bare))
    write_comparison(compare_results([file]), tmp_path / "out", title="All", command_line="x")
    assert (tmp_path / "out/comparison.png").read_bytes().startswith(PNG)


def test_what_would_steer_the_terminal_is_not_shown(write: Write) -> None:
    comparison = compare_results([write("odd.json", model("a\x1b[31m\nb"))])
    assert comparison.rows[0]["name"] == "a\ufffd[31m b"
