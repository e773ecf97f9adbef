"""`secateur longrange`, and its recipes, on a small task."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_commands import done, failed, secateur

SMALL = """\
model: {embedding_dim: 16, transformer_dim: 16, transformer_hidden_dim: 32, head_dim: 8, num_layers: 2,
  max_seq_len: 64, block_size: 8, density: 0.3}
training: {batch_size: 8, warmup: 2, eval_frequency: 4, num_train_steps: 8, num_init_steps: 2,
  num_dense_train_steps: 4, num_eval_steps: 2}
"""
EXAMPLES = ["--train", "60", "--dev", "20", "--test", "20", "--max-length", "64"]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    done(secateur("longrange", "prepare", "listops", "-o", tmp_path / "out" / "data" / "listops", *EXAMPLES))
    return tmp_path / "out"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


def test_prepare_train_and_evaluate(prepared: Path, small: Path, tmp_path: Path) -> None:
    train = ["longrange", "train", "--task", "listops", "-o", prepared, "--config", small, "--device", "cpu"]
    result = done(secateur(*train, "--json", tmp_path / "figures.json"))
    assert "accuracy" in result.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["switched"] == 4
    evaluated = done(secateur("longrange", "evaluate", "--task", "listops", "-o", prepared, "--device", "cpu"))
    assert f"sat: accuracy {figures['accuracy']:.2%} on 20 examples of test" in evaluated.stdout
    assert "other settings" in failed(secateur(*train, "--seed", "3"))
    for own in (prepared / "sat" / "settings.json", prepared / "data" / "listops" / "meta.json"):
        message = failed(secateur("longrange", "evaluate", "--task", "listops", "-o", prepared, "--json", own))
        assert "lies in a result of secateur" in message


def test_prepare_says_what_it_made(tmp_path: Path) -> None:
    result = done(secateur("longrange", "prepare", "pathfinder", "-o", tmp_path / "data", *EXAMPLES[:6]))
    assert "60" in result.stdout
    assert "1,024" in result.stdout
    message = failed(secateur("longrange", "prepare", "listops", "-o", tmp_path / "x", "--from", str(tmp_path)), 2)
    assert message == "Error: listops is generated and reads nothing; leave out --from"
    assert "there is no task 'lisp'; it is one of" in failed(
        secateur("longrange", "prepare", "lisp", "-o", tmp_path / "x"), 2
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {dropout: 0.1}", "model.dropout: unknown key; did you mean"),
        ("model: {density: 1.5}", "model.density: "),
        ("training: {num_init_steps: 9000}", "num_init_steps is 9000"),
    ],
)
def test_a_configuration_with_a_mistake(prepared: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    arguments = ["--task", "listops", "-o", prepared, "--config", tmp_path / "bad.yaml"]
    assert message in failed(secateur("longrange", "train", *arguments), 2)


RECIPE = """\
name: small
longrange:
  task: listops
  prepare: {train: 60, dev: 20, test: 20, max_length: 64}
  options:
    model: {embedding_dim: 16, transformer_dim: 16, transformer_hidden_dim: 32, head_dim: 8, num_layers: 2,
      max_seq_len: 64, block_size: 8, density: 0.3}
    training: {batch_size: 8, warmup: 2, eval_frequency: 4, num_train_steps: 8, num_init_steps: 2,
      num_dense_train_steps: 4, num_eval_steps: 2}
  train: {check_every: 2, device: cpu}
  modes: [auto, dense]
"""


@pytest.mark.slow
def test_a_recipe_trains_in_every_mode(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run = ["run", tmp_path / "recipe.yaml", "-o", tmp_path / "run"]
    first = done(secateur(*run, "--json", tmp_path / "figures.json"))
    assert re.search(r"mode auto \(1 of 2\).*mode dense \(2 of 2\)", first.stderr, re.DOTALL)
    runs = json.loads((tmp_path / "figures.json").read_text())["runs"]
    assert [row["switched"] for row in runs] == [4, None]
    assert done(secateur(*run)).stdout == first.stdout
    assert "is a run of longrange, which has no page" in failed(secateur("report", tmp_path / "run"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("mine")
    assert "already holds something" in failed(secateur("run", tmp_path / "recipe.yaml", "-o", tmp_path / "mine"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("task: listops", "task: lisp"), "line 3: longrange.task: "),
        (("  train: {", "  trian: {"), "longrange.trian: unknown key; did you mean train?"),
        (("check_every: 2", "check_evry: 2"), "check_evry"),
        (("density: 0.3", "density: 0"), "model.density: "),
        (("[auto, dense]", "[auto, auto]"), "a mode is named twice"),
        (("check_every: 2", "seed: 1.5"), "seed"),
        (("check_every: 2", "name: mine"), "train.name does not stand there"),
        (("train: 60", "from_directory: here"), "leave out --from"),
    ],
)
def test_a_recipe_with_a_mistake(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace(*change))
    assert message in failed(secateur("run", tmp_path / "recipe.yaml", "-o", tmp_path / "run"), 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_train_together(prepared: Path, small: Path, two_processes: Callable[..., Any]) -> None:
    arguments = ["longrange", "train", "--task", "listops", "-o", prepared, "--config", small, "--device", "cpu"]
    for process in two_processes("-m", "secateur", *arguments):
        assert process.returncode == 0, process.stderr
    results = json.loads((prepared / "sat" / "results.json").read_text())
    assert results["switched"] == 4
    assert results["steps"] == 8
