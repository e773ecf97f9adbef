"""Scores of units and of layers that a user brings along."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur import prune
from secateur.errors import InputError
from secateur.models.halves import Part
from secateur.pruning import UnitStatistics

Models = Callable[..., PreTrainedModel]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    return {
        **{"calibration": str(tmp_path / "text.txt"), "seqlen": 32, "samples": 8, "own_text": 0.0},
        **{"ratio": 0.2, "channel_multiple": 1, "keep_halves": True, "compensate": False},
    }


def fluctuation(layer: int, part: Part, found: UnitStatistics) -> Tensor:
    return found.by_unit(found.variance * found.output.double().square().sum(0))


def test_the_same_score_makes_the_same_cut(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any]
) -> None:
    own = prune(tiny_model("llama"), tiny_tokenizer, importance=fluctuation, **options).plan
    named = prune(tiny_model("llama"), tiny_tokenizer, importance="activation", **options).plan
    assert [layer.to_dict() for layer in own.layers] == [layer.to_dict() for layer in named.layers]
    assert own.settings["importance"] == "fluctuation"


def test_the_lowest_scores_leave(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any]
) -> None:
    seen: dict[tuple[int, Part], tuple[int, int]] = {}

    def by_index(layer: int, part: Part, found: UnitStatistics) -> Tensor:
        seen[layer, part] = found.units, found.tokens
        assert found.mean.shape == found.variance.shape == found.output.shape[1:]
        return torch.arange(found.units).flip(0)

    plan = prune(tiny_model("llama"), tiny_tokenizer, importance=by_index, **{**options, "target": "mlp"}).plan
    for layer in plan.layers:
        kept = layer.after.intermediate_size
        assert layer.removed_channels == list(range(kept, layer.before.intermediate_size))
    assert len(seen) == 8 and {tokens for _, tokens in seen.values()} == {8 * 32}


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda *_: torch.zeros(3), r"importance= gave for the attention of layer 0 a shape of \(3,\)"),
        (lambda _, __, found: torch.full((found.units,), torch.nan), "scores that are not finite"),
        (lambda *_: None, "importance= gave for the attention of layer 0 a NoneType; give a tensor or a list"),
        (lambda _, __, found: ["a"] * found.units, "a list; give a tensor or a list"),
        (lambda _, __, found: torch.ones(found.units) * 1j, "scores that are complex"),
        (lambda _, __, found: torch.ones(found.units, device="meta"), "on the device meta"),
    ],
)
def test_what_is_no_score_is_told(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], score: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prune(tiny_model("llama"), tiny_tokenizer, importance=score, **options)


def test_layers_are_spared_by_numbers_of_the_users_own(
    tiny_model: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    options: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    scores = [5.0, 1.0, 1.0, 1.0]
    given = {**options, "importance": "magnitude", "target": "mlp"}
    result = prune(tiny_model("llama"), tiny_tokenizer, layer_importance=scores, allocation="inverse", **given)
    rates = [layer.rate for layer in result.plan.layers]
    assert rates[0] < min(rates[1:]) and [layer.importance for layer in result.plan.layers] == scores
    assert "not used" not in caplog.text
    prune(tiny_model("llama"), tiny_tokenizer, layer_importance=torch.tensor(scores), **given)
    assert "not used" in caplog.text
    with pytest.raises(InputError, match="has 2 scores; the model has 4 layers"):
        prune(tiny_model("llama"), tiny_tokenizer, layer_importance=[1.0, 2.0], **given)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (5, "is a int and no list of numbers"),
        (["a"] * 4, "is a list and no list of numbers"),
        ([None] * 4, "no list of numbers"),
        (torch.ones(2, 2), "is a Tensor and no list of numbers"),
        ({1, 2, 3, 4}, "is a set; give a list"),
        (b"abcd", "is a bytes; give a list"),
        ([1e308] * 4, "not finite, or beyond 1e"),
    ],
)
def test_what_are_no_scores_of_layers_is_told(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], scores: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prune(tiny_model("llama"), tiny_tokenizer, layer_importance=scores, **options)
