"""Files of a finished run that something has happened to since: one line that names the place, and what to do."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from secateur.comparison.results import read_result
from secateur.errors import InputError, OutputError
from secateur.pruning import LayerImportance
from secateur.runs.stored import (
    ImportanceFile,
    MetricsFile,
    PlanFile,
    RunFile,
    ZerosFile,
    read_run_file,
    require_same_layers,
)

LAYER = {"layer": 0, "num_key_value_heads": [4, 3], "intermediate_size": [96, 60], "frozen": False} | dict.fromkeys(
    ("rate", "attention_rate", "mlp_rate"), 0.25
)
PLAN = {"ratio": 0.2, "reached": 0.2, "parameters_before": 10, "parameters_after": 8, "layers": [LAYER]}
ZEROS = {
    **{"asked": 0.5, "reached": 0.5, "zeros": 5, "calibration": "", "calibration_source": "", "calibration_windows": 0},
    "matrices": [{"layer": 0, "name": "q_proj", "sparsity": 0.5}],
}
MODEL = {"name": "original", "parameters": 10, "perplexity": {"x": 3.0}, "windows": {"x": 1}, "corpora": {"x": "y"}}
METRICS = {
    **{"name": "run", "model": "m", "seed": 0, "sample_tokens": 2, "texts": [], "commands": []},
    **{"models": [{**MODEL, "seqlen": 32}], "versions": {}, "machine": {}, "seconds": {"prune": 1.5}},
}


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (PlanFile, PLAN),
        (ZerosFile, ZEROS),
        (MetricsFile, METRICS),
        (ImportanceFile, {"method": "x", "importance": [1]}),
    ],
)
def test_what_a_run_writes_is_read_as_it_stands(tmp_path: Path, kind: type[RunFile], content: Any) -> None:
    assert read_run_file(written(tmp_path / "x.json", content), kind) == content


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (PlanFile, {**PLAN, "layers": [{**LAYER, "layer": 10**9}]}, "layers.0.layer: Input should be less than 10000"),
        (PlanFile, {**PLAN, "layers": [{**LAYER, "rate": "1"}]}, "layers.0.rate: Input should be a valid number"),
        (PlanFile, {**PLAN, "layers": []}, "layers: List should have at least 1 item"),
        (PlanFile, {**PLAN, "parameters_before": True}, "parameters_before: Input should be a valid integer"),
        (ZerosFile, {**ZEROS, "matrices": {}}, "matrices: Input should be a valid list"),
        (ZerosFile, {**ZEROS, "reached": 7}, "reached: Input should be less than or equal to 1"),
        (MetricsFile, {**METRICS, "models": [MODEL]}, "windows or seqlen of the text 'x' are missing"),
        (MetricsFile, {**METRICS, "seconds": {"prune": None}}, "seconds.prune: Input should be a valid number"),
        (MetricsFile, [METRICS], "Input should be"),
        (ImportanceFile, {"method": "x", "importance": [math.nan]}, "it holds NaN, which is no number"),
        (ImportanceFile, {"method": "x", "importance": ["1"]}, "importance.0: Input should be a valid number"),
        (None, {"a": math.inf}, "it holds Infinity, which is no number"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, kind: type[RunFile] | None, content: Any, message: str) -> None:
    with pytest.raises(OutputError) as caught:
        read_run_file(written(tmp_path / "x.json", content), kind)
    assert f"{tmp_path}/x.json is damaged: " in str(caught.value) and message in str(caught.value)
    assert "and the same command makes it again" in str(caught.value) and "\n" not in str(caught.value)


def test_scores_of_another_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"x\.json is damaged: it scores 2 layers and the plan has 1; delete"):
        require_same_layers(PLAN, {"importance": [1, 2]}, tmp_path / "x.json")


def test_what_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"x\.json is missing; delete .*, and the same command makes it again"):
        read_run_file(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"importance": [1, 2e300]}, "importance.1: Input should be less than or equal to"),
        ({"importance": [1, True]}, "importance.1: Input should be a valid number"),
        ({"importance": {"a": 1}}, "importance: Input should be a valid list"),
        ({"samples": "many"}, "windows: Input should be a valid integer"),
        ({"other": 1}, "other: Extra inputs are not permitted"),
        ({"importance": [math.nan, 1]}, "it holds NaN, which is no number"),
    ],
)
def test_scores_that_are_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = written(tmp_path / "x.json", {"method": "removal", "importance": [1.0, 2.0], **change})
    with pytest.raises(InputError) as caught:
        LayerImportance.read(file, 2)
    assert "x.json is not a layer_importance.json: " in str(caught.value) and message in str(caught.value)


def test_figures_that_say_nothing_of_how_they_were_measured(tmp_path: Path) -> None:
    row = {"name": "a", "parameters": 5, "perplexity": {"x": 3.0}, "windows": {"x": 1}, "corpora": {"x": "y"}}
    for model, message in (
        (row, "seqlen: it is missing"),
        ({**row, "seqlen": 8, "corpora": {"x": "y", "z": "y"}}, "windows or corpora say nothing about z"),
        ({**row, "seqlen": 8, "parameters": 2**60}, "parameters: Input should be less than or equal to"),
    ):
        with pytest.raises(InputError, match=message):
            read_result(written(tmp_path / "x.json", {"models": [model]}))
