"""Targets from the command line and in recipes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

import secateur
from json_docs import require_written
from secateur.cli.main import app
from secateur.errors import OptionError
from secateur.runs.recipe import Recipe, parse_recipe
from secateur.runs.stages import Pipeline
from secateur.runs.sweep import _cells, parse_settings

Models = Callable[..., PreTrainedModel]
QUICK = ("--windows", "2", "--seqlen", "32", "--own-text", "0", "--importance", "magnitude", "--no-compensate")


def command(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, words)
    if result.exit_code == 0:
        require_written(words)
    return result


@pytest.fixture
def directory(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, private_cache: Path) -> Path:
    secateur.save(tiny_model(), tiny_tokenizer, tmp_path / "tiny")
    return tmp_path / "tiny"


def test_widths_are_measured_and_a_cut_keeps_to_them(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.costs.timing.MOST_ROUNDS", 2)
    file = tmp_path / "times.json"
    measured = command("measure-widths", directory, "--context", "8", "--json", file)
    assert measured.exit_code == 0, measured.output
    assert "mlp" in measured.stdout and "the rest" in measured.stdout
    assert f"next: secateur prune {directory} -o out/pruned --target-latency" in measured.stderr
    content = json.loads(file.read_text())
    content |= {"fixed": 1.0, "attention": [[0, 0.0], [1, 1.0], [4, 4.0]], "mlp": [[0, 0.0], [96, 4.0]]}
    file.write_text(json.dumps(content))
    out = tmp_path / "cut"
    cut = command("prune", directory, "-o", out, "--target-latency", "25ms", "--target-device", file, *QUICK)
    assert cut.exit_code == 0, cut.output
    plan = json.loads((out / "pruning_plan.json").read_text())
    assert plan["ratio"] == plan["reached"] and plan["target"]["before"] == pytest.approx(33)
    assert 0.97 * 25 <= plan["target"]["reached"] <= 25
    assert "ms a token" in cut.stdout and "25ms asked" in cut.stdout
    assert "25ms asked" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--target-memory", "6 GX"], 2, "--target-memory 6 GX: is no size; write 6GB or 900MB for example"),
        (["--target-memory", "1MB", "--ratio", "0.2"], 2, "--ratio and --target-memory both say how much is cut"),
        (
            ["--target-memory", "1kB"],
            1,
            "--target-memory 1kB is beyond what can be reached: at --max-rate 0.8 the nearest",
        ),
        (["--target-latency", "1ms", "--target-device", "H10O"], 2, "the device 'H10O' is unknown; did you mean H100?"),
        (["--target-latency", "5s", "--context", "9000"], 1, "texts of 9,000 tokens are longer than the 8,192 that"),
        (["--context", "9"], 2, "--context has no effect without --target-memory or --target-latency or"),
        (["--ratio", "0.2", "--bits", "4"], 2, "--bits has no effect without --target-memory or"),
        (["--target-latency", "1ms", "--batch", "2"], 2, "--batch has no effect without --target-memory; leave it out"),
        (["--target-memory", "1MB", "--target-device", "H100"], 2, "--target-device has no effect without"),
        (["--target-memory", "1MB", "--bits", "3"], 2, "--bits 3: weights are stored in 16, 8, 4 bits"),
    ],
)
def test_what_cannot_be_is_one_line(
    directory: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    result = command("prune", directory, "-o", tmp_path / "cut", *arguments)
    assert result.exit_code == status and message in " ".join(result.stderr.split())
    assert not (tmp_path / "cut").exists()


def test_recipes_and_sweeps_take_targets() -> None:
    text = "model: m\nprune: {target_memory: 6GB, context: 2048, bits: 4}\n"
    recipe = parse_recipe(text)
    assert isinstance(recipe, Recipe) and recipe.prune is not None
    assert recipe.prune.wanted == 6e9 and recipe.prune.bits == 4
    cells = list(_cells(text, "recipe", parse_settings(["prune.target_memory=6GB,900MB"])))
    assert [cell.directory for cell in cells] == ["prune.target_memory=6GB", "prune.target_memory=900MB"]
    speeds = list(_cells("model: m\nprune:\n", "recipe", parse_settings(["prune.target_throughput=40,60"])))
    assert [cell.recipe.prune and cell.recipe.prune.wanted for cell in speeds] == [25.0, 1000 / 60]
    with pytest.raises(OptionError, match="the search decides"):
        parse_recipe("model: m\nsearch:\nprune: {target_memory: 6GB}\n")


def test_a_run_depends_on_the_file_of_times_and_on_the_text_of_an_export(tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text("{}")
    (tmp_path / "text.txt").write_text("a text")
    asked = f"target_latency: 1ms, target_device: {tmp_path}/times.json"
    text = f"model: m\nprune: {{{asked}}}\nexport: {{dtype: q4_k_m, data: {tmp_path}/text.txt}}\n"
    recipe = parse_recipe(text)
    assert isinstance(recipe, Recipe)
    assert {f"{tmp_path}/times.json", f"{tmp_path}/text.txt"} <= {*recipe.inputs}
    inputs = {stage.name: stage.inputs for stage in Pipeline(recipe, tmp_path, tmp_path).stages()}
    assert f"{tmp_path}/times.json" in inputs["prune"]
    assert f"{tmp_path}/text.txt" in inputs["export"]
    searched = parse_recipe(f"model: m\nsearch: {{{asked}}}\nprune:\n")
    assert isinstance(searched, Recipe)
    assert f"{tmp_path}/times.json" in searched.inputs
    (search,) = [stage for stage in Pipeline(searched, tmp_path, tmp_path).stages() if stage.name == "search"]
    assert f"{tmp_path}/times.json" in search.inputs
