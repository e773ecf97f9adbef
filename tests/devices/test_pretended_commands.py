"""The commands as they are typed, on one pretended GPU and, with --device-map auto, on two."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended import two_gpus
from typed import COMMANDS, typed
from typer.testing import CliRunner

from secateur.cli.main import app
from secateur.models import loading


@pytest.fixture
def gpus(made: dict[str, str], monkeypatch: pytest.MonkeyPatch, pretending: None, private_cache: Path) -> None:
    """GPUs for `load`: the first for a model, two for one with a device map."""
    read = loading.read_model

    def spread(path: Path, device_map: str | None = None, **options: Any) -> Any:
        model = read(path, **options)
        return model if device_map is None else two_gpus(model)

    monkeypatch.setattr(loading, "read_model", spread)
    monkeypatch.setattr(loading, "resolve_device", lambda device: torch.device("cuda:0"))


@pytest.mark.slow
@pytest.mark.parametrize("device_map", [None, "auto"], ids=["one GPU", "two GPUs"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command(gpus: None, made: dict[str, str], tmp_path: Path, name: str, device_map: str | None) -> None:
    arguments = typed(name, made, tmp_path)
    result = CliRunner().invoke(app, [*arguments, *(["--device-map", device_map] if device_map else [])])
    assert result.exit_code == 0, result.output
    assert "-o" not in arguments or Path(arguments[arguments.index("-o") + 1]).exists()


@pytest.mark.slow
def test_run(gpus: None, made: dict[str, str], tmp_path: Path) -> None:
    text = {"samples": 4, "seqlen": 32}
    measured = {"windows": 2, "seqlen": 32, "prompt_tokens": 8, "new_tokens": 2, "repeats": 1}
    recipe = {
        "model": made["MODEL"],
        "device_map": "auto",
        "prune": {**text, "calibration": made["TEXT"], "own_text": 0, "ratio": 0.2},
        "sparsify": {**text, "calibration": made["TEXT"], "own_text": 0},
        "recover": {**text, "data": made["TEXT"], "val_size": 0},
        "evaluate": {**measured, "data": [made["TEXT"]]},
        "samples": {"prompts": ["1"], "max_new_tokens": 2},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    result = CliRunner().invoke(app, ["run", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "run")])
    assert result.exit_code == 0, (result.output, result.exc_info)
    assert (tmp_path / "run" / "report.html").is_file()


def test_export(gpus: None, made: dict[str, str], tmp_path: Path) -> None:
    """It works on the CPU, whatever else is there."""
    result = CliRunner().invoke(app, ["export", made["MODEL"], "-o", str(tmp_path / "model.gguf")])
    assert result.exit_code == 0, result.output


def test_tasks(gpus: None, made: dict[str, str], task_directory: Path) -> None:
    arguments = ["--tasks", "sums", "--include-path", str(task_directory), "--no-speed", "--no-perplexity"]
    result = CliRunner().invoke(app, ["evaluate", made["MODEL"], *arguments, "--device-map", "auto"])
    assert result.exit_code == 0, (result.output, result.exc_info)
