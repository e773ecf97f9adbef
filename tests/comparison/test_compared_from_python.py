"""Results side by side from Python."""

from pathlib import Path
from typing import Any

import pytest

import secateur
from secateur.errors import InputError
from secateur.evaluation import Evaluation


def evaluation(name: str, perplexity: float, parameters: int = 100) -> Evaluation:
    named: dict[str, Any] = {"windows": {"t": 4}, "corpora": {"t": "a text"}, "sources": {"t": "s"}}
    return Evaluation(
        name, parameters, {"t": perplexity}, **named, seqlen=32, stride=None, dtype="float32", device="cpu"
    )


def test_evaluations_go_by_the_names_they_are_given(tmp_path: Path) -> None:
    before, after = evaluation("model", 10.0), evaluation("model", 12.5, 75)
    found = secateur.compare({"uncut": before, "cut": after}, tmp_path / "out")
    assert [(row["name"], row["parameters"]) for row in found.rows] == [("uncut", 100), ("cut", 75)]
    assert {"comparison.md", "comparison.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
    again = secateur.compare([tmp_path / "out", found])
    assert len(again.rows) == 4
    names = [row["name"] for row in secateur.compare([before, after]).rows]
    assert names == ["model", "model (2)"], "models of one name are told apart"


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "there is nothing to compare"),
        ([3], "int is nothing to compare; give a result of evaluate or run, or a path"),
        (["/nowhere.json"], "/nowhere.json does not exist"),
        ([evaluation("model", -1.0)], "Evaluation is not what evaluate or run writes: perplexity"),
    ],
)
def test_what_is_no_result_is_told(results: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        secateur.compare(results)
