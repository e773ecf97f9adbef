"""A recipe over values: the cells, what they share, what goes on after a stop, what fails."""

import json
from pathlib import Path
from typing import Any

import pytest

from secateur.comparison.results import read_result
from secateur.data import load_corpus
from secateur.errors import InputError, OutputError
from secateur.runs import stages as pipeline
from secateur.runs.sweep import parse_settings, sweep_recipe

RECIPE = """\
name: small
model: {model}
device: cpu
prune:
  samples: 2
  seqlen: 32
  layer_importance_samples: 1
  calibration: {text}
evaluate:
  data: [{text}]
  windows: 2
  seqlen: 32
  speed: false
samples: {{prompts: [Once], max_new_tokens: 2}}
"""


@pytest.fixture
def recipe(tiny_model, tiny_tokenizer, tmp_path: Path, private_cache: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    text = tmp_path / "text.txt"
    text.write_text(load_corpus("pydocs").text[:3000])
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE.format(model=tmp_path / "tiny", text=text))
    return file


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that did work, in order."""
    names: list[str] = []

    def watch(name: str) -> None:
        real = getattr(pipeline, name)
        monkeypatch.setattr(pipeline, name, lambda *a, **k: names.append(name) or real(*a, **k))

    for name in ("measure", "score_layers", "prune_model"):
        watch(name)
    return names


def sweep(recipe: Path, *settings: str, directory: Path | None = None, **options: Any) -> Any:
    target = directory or recipe.parent / "sweep"
    return sweep_recipe(recipe, settings, target, command_line="secateur sweep", **options)


@pytest.mark.slow
def test_cells_are_runs_that_share_what_is_alike(recipe: Path, worked: list[str], tmp_path: Path) -> None:
    result = sweep(recipe, "prune.ratio=0.1,0.3")
    assert worked == ["measure", "score_layers", "prune_model", "measure", "prune_model", "measure"]
    rows = result.comparison.rows
    assert [(row["name"], row["values"]) for row in rows] == [
        ("original", {}),
        ("pruned", {"prune.ratio": 0.1}),
        ("pruned", {"prune.ratio": 0.3}),
    ]
    assert rows[0]["parameters"] > rows[1]["parameters"] > rows[2]["parameters"]
    assert result.failed == {} and result.cells == 2
    root = tmp_path / "sweep"
    assert {path.name for path in root.iterdir()} == {
        *("prune.ratio=0.1", "prune.ratio=0.3", "sweep.json", "sweep.png", ".secateur.json"),
        *("comparison.md", "comparison.json", "comparison.html", "comparison.png"),
    }
    assert "| pruned | 0.3 |" in (root / "comparison.md").read_text()
    assert "Quality by prune.ratio" in result.page.read_text()
    cell = root / "prune.ratio=0.3"
    assert (cell / "report.html").is_file()
    assert (cell / "command.txt").read_text() == f"secateur run {cell}/recipe.yaml -o {cell}\n"
    alone = pipeline.run_recipe(
        pipeline.Recipe(**_yaml(cell / "recipe.yaml")), "x", tmp_path / "alone", command_line="x"
    )
    assert (
        alone["models"][1]["perplexity"] == json.loads((cell / "metrics.json").read_text())["models"][1]["perplexity"]
    )
    assert [row["values"] for row in read_result(root).rows] == [row["values"] for row in rows]


def _yaml(file: Path) -> Any:
    import yaml

    return yaml.safe_load(file.read_text())


@pytest.mark.slow
def test_done_cells_are_skipped_and_a_stopped_one_goes_on(
    recipe: Path, worked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.prune_model

    def stops(name: str, output: Path, config: Any, **options: Any) -> Any:
        if config.ratio == 0.3:
            raise KeyboardInterrupt
        return real(name, output, config, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "prune_model", stops)
        sweep(recipe, "prune.ratio=0.1,0.3")
    worked.clear()
    first = sweep(recipe, "prune.ratio=0.1,0.3")
    assert worked == ["prune_model", "measure"]
    worked.clear()
    assert sweep(recipe, "prune.ratio=0.1,0.3").comparison.rows == first.comparison.rows
    assert worked == []
    more = sweep(recipe, "prune.ratio=0.1,0.2,0.3")
    assert worked == ["prune_model", "measure"]
    assert [row["values"].get("prune.ratio") for row in more.comparison.rows] == [None, 0.1, 0.2, 0.3]
    worked.clear()
    sweep(recipe, "prune.ratio=0.1", overwrite=True)
    assert worked == ["measure", "score_layers", "prune_model", "measure"]


@pytest.mark.slow
def test_a_failed_cell_does_not_stop_the_others(recipe: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.txt"
    result = sweep(recipe, f"prune.calibration={missing},{tmp_path}/text.txt")
    (message,) = result.failed.values()
    assert "none.txt" in message
    assert [row["name"] for row in result.comparison.rows] == ["original", "pruned"]
    assert [row["name"] for row in read_result(tmp_path / "sweep").rows] == ["original", "pruned"]
    state = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [cell["error"] is None for cell in state["cells"]] == [False, True]
    assert sweep(recipe, f"prune.calibration={missing}", directory=tmp_path / "all").comparison is None


def test_an_error_of_a_library_is_a_failed_cell(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("out\nof luck")

    monkeypatch.setattr(pipeline, "prune_model", breaks)
    assert list(sweep(recipe, "prune.ratio=0.1").failed.values()) == ["unexpected RuntimeError: out of luck"]


@pytest.mark.slow
def test_all_combinations_with_lists_and_words(recipe: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    settings = [f"evaluate.data=[{text}],['{text}[:50%]']", "prune.importance=magnitude,activation", "prune.even=true"]
    result = sweep(recipe, *settings)
    assert result.failed == {}
    values = [row["values"] for row in result.comparison.rows if row["name"] == "pruned"]
    assert [(value["evaluate.data"], value["prune.importance"], value["prune.even"]) for value in values] == [
        ([str(text)], "magnitude", True),
        ([str(text)], "activation", True),
        ([f"{text}[:50%]"], "magnitude", True),
        ([f"{text}[:50%]"], "activation", True),
    ]
    assert (tmp_path / "sweep/sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=0.1,0.2", [0.1, 0.2]),
        ("a=[x, y],[z]", [["x", "y"], ["z"]]),
        ("a={b: 1, c: 2}, null ,true", [{"b": 1, "c": 2}, None, True]),
        ("a='x,y',\"10:25\"", ["x,y", "10:25"]),
        ("a=notes.txt[:80%],it's", ["notes.txt[:80%]", "it's"]),
        ("a=b=c", ["b=c"]),
    ],
)
def test_values_are_yaml_and_only_outer_commas_part_them(text: str, values: list[Any]) -> None:
    assert parse_settings([text]) == {"a": values}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "nothing to sweep over"),
        (["prune.ratio"], "settings= prune.ratio is not like prune.ratio=0.15,0.25"),
        (["=1"], "is not like"),
        (["a..b=1"], "is not like"),
        (["a=1", "a=2"], "settings= a is given twice"),
        (["a=0.1,0.10"], "settings= a: the value 0.1 is given twice"),
        (["a=1,,2"], "settings= a has an empty value"),
        (["a=[1"], "settings= a: [1 is not a YAML value"),
        (["a=!!python/object:os.system x"], "is not a YAML value"),
        (["a=2020-01-01"], "is not a YAML value"),
        (["name=x"], "settings= name: a cell is named by its values"),
        (["a=&x [1], *x"], "settings= a: *x is not a YAML value"),
        (
            [f"a={','.join(map(str, range(1001)))}"],
            "settings= a has more than 1,000 values",
        ),
        (
            [f"{key}={','.join(map(str, range(199)))}" for key in "abcd"],
            "the values have 1,568,239,201 combinations and a sweep may have 1,000; give fewer",
        ),
    ],
)
def test_settings_that_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_settings(settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["prune.ratoi=0.1"], "small.yaml with prune.ratoi=0.1: prune.ratoi: unknown key; did you mean ratio?"),
        (["prune.ratio=0.1,1.5"], "with prune.ratio=1.5: prune.ratio: Input should be less than 1, not 1.5"),
        (["seed=1,true"], "with seed=true: seed: Input should be a number, not True"),
        (["prune.alpha=1,1.0"], "the cells prune.alpha=1 and prune.alpha=1.0 are the same"),
        (["model.x=1"], "model.x is below model, which is a value and no section"),
        (["longrange.task=listops"], "unknown key"),
    ],
)
def test_cells_that_are_refused_before_any_work(recipe: Path, settings: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        sweep(recipe, *settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (recipe.parent / "sweep").exists()


def test_a_recipe_of_longrange_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("longrange: {task: listops}\n")
    with pytest.raises(InputError, match="a recipe with the section longrange cannot be swept"):
        sweep(file, "longrange.task=listops,text")


def test_a_directory_of_something_else_is_left_alone(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something that is not a sweep"):
        sweep(recipe, "prune.ratio=0.1", directory=tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/thesis.txt").read_text() == "mine"


def test_damage_in_a_sweep_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"cells": 3}')
    with pytest.raises(InputError, match=r"sweep\.json is damaged"):
        read_result(tmp_path)
    (tmp_path / "sweep.json").write_text('{"name": "x", "recipe": "", "cells": []}')
    with pytest.raises(InputError, match="holds no finished cell"):
        read_result(tmp_path)
