"""Training in two processes gives what one process gives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from secateur.longrange.config import LongRangeConfig
from secateur.longrange.run import read_results

WORKER = Path(__file__).with_name("shares.py")
# The mode, the examples of a step, and the steps in which more than so many do not fit into the second process.
CASES: dict[str, tuple[str, int, list[int], int]] = {
    "unequal shares": ("dense", 5, [], 0),
    "sparse, unequal shares": ("sparse", 5, [], 0),
    "fewer examples than processes": ("auto", 1, [], 0),
    "memory is short in one process": ("dense", 5, [1, 7], 1),
}


@pytest.mark.slow
def test_two_processes_train_as_one_does(
    options: dict[str, Any],
    settled: LongRangeConfig,
    tmp_path: Path,
    two_processes: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECATEUR_TIMEOUT", "1")
    without_dropout = settled.overlaid({"model": {"dropout_prob": 0.0, "attention_dropout": 0.0}})

    def cases(directory: str) -> list[dict[str, Any]]:
        return [
            {
                "options": {**options, "data": str(options["data"]), "mode": mode},
                "settled": without_dropout.overlaid({"training": {"batch_size": examples}}).model_dump(),
                "output": str(tmp_path / directory / name),
                "short": short,
                "fit": fit,
            }
            for name, (mode, examples, short, fit) in CASES.items()
        ]

    (tmp_path / "one.json").write_text(json.dumps(cases("one")), encoding="utf-8")
    (process,) = two_processes(WORKER, tmp_path / "one.json", timeout=120, count=1)
    assert process.returncode == 0, process.stderr
    two = cases("two")
    two.append({**two[0], "output": str(tmp_path / "two" / "too large"), "short": [3], "fit": 0})
    (tmp_path / "cases.json").write_text(json.dumps(two), encoding="utf-8")
    for process in two_processes(WORKER, tmp_path / "cases.json", timeout=120):
        assert process.returncode == 0, process.stderr
    for name in CASES:
        alone, together = (tmp_path / directory / name / "sat" for directory in ("one", "two"))
        expected, found = read_results(alone), read_results(together)
        assert found["switched"] == expected["switched"], name
        for kind in ("losses", "evaluations"):
            assert len(found[kind]) == len(expected[kind]) > 1
            for entry, other in zip(found[kind], expected[kind], strict=True):
                assert entry == pytest.approx(other, rel=1e-5), name
        weights, others = load_file(together / "last.safetensors"), load_file(alone / "last.safetensors")
        assert weights.keys() == others.keys()
        for weight in weights:
            # Attention does not depend on the key's bias: its gradient is rounding.
            if weight.startswith("model.") and not weight.endswith("key.bias"):
                difference = float((weights[weight].double() - others[weight].double()).norm())
                assert difference <= 1e-4 * float(others[weight].double().norm()) + 1e-7, (name, weight)
    message = (tmp_path / "two" / "too large.error").read_text(encoding="utf-8")
    assert "a single example does not fit in memory (in another process)" in message
