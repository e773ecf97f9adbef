"""Cuts and measurements in two processes under torchrun give what one process gives."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.models import save

WORKER = Path(__file__).with_name("cuts.py")
# 7 windows are 4 and 3 of two processes.
TEXT = {"seqlen": 48, "batch_size": 2, "samples": 7}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "obs": ("prune", {"ratio": 0.3, "own_text": 0.4}),
    "fisher": ("prune", {"ratio": 0.3, "importance": "fisher"}),
    "taylor": ("prune", {"ratio": 0.3, "importance": "taylor", "layer_importance": "activation"}),
    "activation": ("prune", {"ratio": 0.3, "importance": "activation", "layer_importance": "similarity"}),
    "by layer": ("prune", {"ratio": 0.2, "allocation": "inverse", "compensate": False}),
    "search": ("search", {"ratio": 0.25, "rounds": 2, "measured": 3}),
    "admm": ("sparsify", {"own_text": 0.4}),
    # Rounding decides where weights are nearly as dispensable as others, and everything behind follows: one layer here.
    "sparsegpt": ("sparsify", {"method": "sparsegpt", "pattern": "2:4", "offload": "disk", "layers": "0:1"}),
    "wanda": ("sparsify", {"method": "wanda", "allocation": "owl", "layer_by_layer": True, "device": "cpu"}),
    "magnitude": ("sparsify", {"method": "magnitude"}),
    "perplexity": ("perplexity", {"windows": 7}),
    "perplexity of one window": ("perplexity", {"windows": 1}),
}


def test_two_processes_find_what_one_finds(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerBase,
    private_cache: Path,
    tmp_path: Path,
    torchrun: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(tiny_model(), tiny_tokenizer, tmp_path / "model")
    (tmp_path / "text.txt").write_text(" ".join(map(str, range(400))), encoding="utf-8")

    def cases(directory: str) -> list[dict[str, Any]]:
        text = {**TEXT, "calibration": str(tmp_path / "text.txt")}
        return [
            {
                "work": work,
                "model": str(tmp_path / "model"),
                "output": str(tmp_path / directory / name),
                "options": own if work == "perplexity" else {**text, **own},
            }
            for name, (work, own) in CASES.items()
        ]

    cut = runpy.run_path(str(WORKER))["cut"]
    expected = [cut(case) for case in cases("one")]
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "another cache"))
    together = cases("two")
    (tmp_path / "cases.json").write_text(json.dumps(together), encoding="utf-8")
    done = torchrun(WORKER, tmp_path / "cases.json")
    assert done.returncode == 0, done.stderr
    for case, figures in zip(together, expected, strict=True):
        name = Path(case["output"]).name
        found = json.loads(Path(f"{case['output']}.json").read_text(encoding="utf-8"))
        for rounded in ("importance", "perplexity"):
            values, others = (side.pop(rounded, None) or [] for side in (found, figures))
            assert values == pytest.approx(others, rel=1e-6, abs=1e-6), name
        assert found == figures, name
        if case["work"] != "perplexity":
            one, two = (load_file(tmp_path / side / name / "model.safetensors") for side in ("one", "two"))
            assert one.keys() == two.keys()
            for weight in one:
                assert float((two[weight] - one[weight]).norm() / one[weight].norm()) < 1e-4, (name, weight)
