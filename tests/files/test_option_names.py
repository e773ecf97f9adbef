"""Options by the names that they had before: on the command line, in recipes, files and Python."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from secateur.attention.config import TuneConfig
from secateur.cli.main import app
from secateur.cli.options import validated
from secateur.errors import InputError
from secateur.models import configured
from secateur.planning.config import PlanConfig
from secateur.pruning import PruneConfig
from secateur.pruning.layer_importance import LayerImportance
from secateur.pruning.search import SearchConfig
from secateur.runs.recipe import Recipe, parse_recipe
from secateur.runs.stored import MetricsFile, read_run_file
from secateur.runs.sweep import parse_settings
from secateur.sparsity import SparsifyConfig

EARLIER = [
    (PruneConfig, {"calibration": "a.txt", "samples": 3, "layer_importance_samples": 2}, "data windows"),
    (SparsifyConfig, {"calibration": "a.txt", "samples": 3}, "data windows"),
    (SearchConfig, {"calibration": "a.txt", "samples": 3, "measured": 4}, "data windows measured_windows"),
    (TuneConfig, {"samples": 3}, "windows"),
    (PlanConfig, {"devices": "cpu", "samples": 3, "recover_windows": 7}, "windows recover_samples"),
]


@pytest.mark.parametrize(("kind", "given", "present"), EARLIER)
def test_earlier_names_are_taken(kind: Any, given: dict[str, Any], present: str) -> None:
    config = configured(kind, None, given)
    assert set(present.split()) <= config.model_fields_set <= set(kind.model_fields)
    assert list(given.values()) == list(config.model_dump(include=config.model_fields_set).values())
    assert validated(kind, {name: str(value) for name, value in given.items()}) == config
    assert config.model_dump().keys().isdisjoint(given.keys() - {"devices"})


def test_both_names_at_once_are_one_clear_line(tmp_path: Path) -> None:
    said = "--data and --calibration are one option, and both are given; leave out --calibration"
    command = ["prune", "none", "-o", str(tmp_path / "out"), "--data", "a.txt", "--calibration", "a.txt"]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stderr) == (2, f"Error: {said}\n")
    with pytest.raises(InputError, match=r"^data= and calibration= are one option, and both are given"):
        configured(PruneConfig, None, {"data": "a.txt", "calibration": "a.txt"})
    with pytest.raises(InputError, match=r"^r.yaml: prune: .*are one option"):
        parse_recipe("model: m\nprune: {data: a.txt, calibration: b.txt}\n", "r.yaml")


def test_one_over_the_other_is_no_contradiction() -> None:
    config = configured(PruneConfig, PruneConfig(data="a.txt", windows=3), {"calibration": "b.txt", "samples": 4})
    assert (config.data, config.windows) == ("b.txt", 4)


def test_an_old_recipe() -> None:
    old = "model: m\nsearch: {calibration: a.txt, samples: 8, measured: 2}\nprune: {layer_importance_samples: 1}\n"
    new = "model: m\nsearch: {data: a.txt, windows: 8, measured_windows: 2}\nprune: {layer_importance_windows: 1}\n"
    read = parse_recipe(old)
    assert isinstance(read, Recipe) and read == parse_recipe(new)
    assert read.prune is not None and (read.prune.data, read.prune.windows) == ("a.txt", 8)
    assert Recipe(model="m", prune={"calibration": "a.txt"}) == Recipe(model="m", prune={"data": "a.txt"})
    with pytest.raises(InputError, match=r"^r.yaml, line 3: prune.windows: Input should be greater"):
        parse_recipe("model: m\nprune:\n  samples: 0\n", "r.yaml")


def test_help_shows_present_names_only() -> None:
    shown = CliRunner().invoke(app, ["prune", "--help"]).stdout
    assert "--data" in shown and "--windows" in shown
    assert "--calibration" not in shown and "--samples" not in shown


def test_old_files_are_read(tmp_path: Path) -> None:
    scores = {"method": "removal", "importance": [1.0, 2.0], "samples": 8, "seqlen": 32}
    (tmp_path / "importance.json").write_text(json.dumps(scores))
    assert LayerImportance.read(tmp_path / "importance.json", 2).windows == 8
    model = {"name": "original", "parameters": 1, "perplexity": 3.0, "perplexities": {"x": 3.0, "y": 4.0}}
    empty: dict[str, Any] = {"texts": [], "commands": [], "versions": {}, "machine": {}, "seconds": {}}
    metrics = {"name": "r", "model": "m", "seed": 0, "models": [model], "sample_tokens": 1, **empty}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (read,) = read_run_file(tmp_path / "metrics.json", MetricsFile)["models"]
    assert read["perplexity"] == {"x": 3.0, "y": 4.0} and "perplexities" not in read


def test_a_sweep_takes_them(tmp_path: Path) -> None:
    from secateur.runs.sweep import _cells

    text = "model: m\nprune: {calibration: a.txt}\n"
    cells = list(_cells(text, "r.yaml", parse_settings(["prune.samples=1,2"])))
    assert [cell.directory for cell in cells] == ["prune.windows=1", "prune.windows=2"]
    assert [(cell.recipe.prune.data, cell.recipe.prune.windows) for cell in cells] == [("a.txt", 1), ("a.txt", 2)]
    with pytest.raises(InputError, match="given twice, once by its earlier name"):
        list(_cells(text, "r.yaml", parse_settings(["prune.samples=1,2", "prune.windows=1,2"])))
