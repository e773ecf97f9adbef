"""Recipes from Python."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

import secateur
from secateur.errors import InputError


@pytest.fixture
def recipe(tiny_model: Any, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> dict[str, Any]:
    secateur.save(tiny_model("llama"), tiny_tokenizer, tmp_path / "model")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    text = str(tmp_path / "text.txt")
    return {
        "name": "small",
        "model": str(tmp_path / "model"),
        "device": "cpu",
        "evaluate": {"data": [text], "seqlen": 32, "windows": 4, "speed": False},
        "samples": {"max_new_tokens": 1},
        "prune": {"importance": "magnitude", "calibration": text, "seqlen": 32, "samples": 4, "own_text": 0},
    }


@pytest.mark.slow
def test_a_recipe_may_be_a_dictionary_and_its_result_compared(recipe: dict[str, Any], tmp_path: Path) -> None:
    result = secateur.run(recipe, tmp_path / "run")
    assert [row["name"] for row in result.rows_of_figures()] == ["original", "pruned"]
    assert result.report.is_file() and (tmp_path / "run" / "recipe.yaml").is_file()
    again = secateur.run(tmp_path / "run" / "recipe.yaml", tmp_path / "run")
    assert again.metrics["seconds"] == result.metrics["seconds"], "what is done is not done again"
    assert secateur.compare([result]).rows[0]["name"] == "original"
    assert repr(result) == f"RunResult(original, pruned, in {tmp_path / 'run'})"


def test_what_a_stage_refuses_is_said_as_the_recipe_writes_it(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["prune"] |= {"ratio": 0.9, "max_rate": 0.5}
    with pytest.raises(InputError, match=r"^ratio: 0.9 is more than can be removed: .* and max_rate"):
        secateur.run(recipe, tmp_path / "run")
    with pytest.raises(InputError, match=r"prune.ratoi: unknown key; did you mean ratio\?"):
        secateur.run({**recipe, "prune": {"ratoi": 0.1}}, tmp_path / "other")
    with pytest.raises(InputError, match="no word for"):
        secateur.run({**recipe, "model": object()}, tmp_path / "other")


@pytest.mark.slow
def test_a_sweep_takes_values_and_is_shown(recipe: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    result = secateur.sweep(file, {"prune.ratio": [0.2]}, tmp_path / "sweep")
    assert not result.failed and (tmp_path / "sweep" / "prune.ratio=0.2").is_dir()
    assert list(result.to_pandas()["prune.ratio"].dropna()) == [0.2]
    assert result.plot().axes
    with pytest.raises(InputError, match=r"^settings= prune.ratio: the value 0.1 is given twice"):
        secateur.sweep(file, {"prune.ratio": [0.1, 0.1]}, tmp_path / "other")
