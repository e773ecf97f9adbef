"""Rotary positions in a stored config: what older programs read says the same as what Transformers 5 reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from secateur.models import adapter_of, declare_widths, is_uneven, load, save
from secateur.models.rope_keys import add_older_rope_keys, older_rope_keys
from secateur.pruning.units import keep_units

FACTORS = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [1.0 + 0.5 * i for i in range(8)]}
STRETCHED = {"factor": 4.0, "original_max_position_embeddings": 64}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", **STRETCHED, "beta_fast": 8.0},
    "llama3": {"rope_type": "llama3", **STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": {"rope_type": "longrope", **STRETCHED, **FACTORS},
}
TOKENS = torch.arange(3, 203)[None]


def stored(directory: Path) -> dict[str, Any]:
    config = json.loads((directory / "config.json").read_text())
    config.pop("_name_or_path", None)
    return config


def narrow_one_layer(model: PreTrainedModel) -> PreTrainedModel:
    adapter = adapter_of(model)
    keep_units(adapter.half(adapter.layers(model)[1], "mlp"), torch.arange(40))
    keep_units(adapter.half(adapter.layers(model)[1], "attention"), torch.arange(3))
    declare_widths(model)
    return model


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
def test_older_keys_say_the_same_and_survive(
    kind: str, uneven: bool, tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rope = {"rope_theta": 500.0, **ROPES[kind]}
    model = tiny_model("llama", max_position_embeddings=256, rope_parameters=rope)
    if uneven:
        assert is_uneven(narrow_one_layer(model))
    save(model, tiny_tokenizer, tmp_path / "one")
    config = stored(tmp_path / "one")
    assert config["rope_theta"] == 500.0
    assert config.get("rope_scaling") == (None if kind == "default" else ROPES[kind])
    assert config["rope_parameters"] == {"rope_theta": 500.0, **ROPES[kind]}

    again, tokenizer = load(tmp_path / "one", dtype="float32", device="cpu")
    assert again.config.rope_parameters == model.config.rope_parameters
    with torch.no_grad():
        torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits)
        torch.testing.assert_close(again(TOKENS[:, :50]).logits, model(TOKENS[:, :50]).logits)
    save(again, tokenizer, tmp_path / "two")
    assert stored(tmp_path / "two") == config


def test_every_family_has_them(family: str, tiny_model: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    save(tiny_model(family, rope_parameters={"rope_theta": 1e6, **ROPES["yarn"]}), None, tmp_path / "m")
    assert stored(tmp_path / "m")["rope_theta"] == 1e6
    assert stored(tmp_path / "m")["rope_scaling"] == ROPES["yarn"]


def test_the_embedded_model_can_have_them_too(tiny_model: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    tiny_model("llama", rope_parameters={"rope_theta": 500.0, "rope_type": "default"}).save_pretrained(tmp_path)
    assert "rope_theta" not in stored(tmp_path)
    add_older_rope_keys(tmp_path)
    assert stored(tmp_path)["rope_theta"] == 500.0
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters["rope_theta"] == 500.0


def test_longrope_in_transformers_4() -> None:
    """It has the original length at the top level and takes the factor from it, whatever `factor` says."""
    config = {"max_position_embeddings": 256, "rope_parameters": {"rope_theta": 1e4, **ROPES["longrope"]}}
    assert older_rope_keys(config)["original_max_position_embeddings"] == 64
    assert "attention_factor" not in older_rope_keys(config)["rope_scaling"]
    config["rope_parameters"] |= {"factor": 2.0}
    # sqrt(1 + ln 2 / ln 64), of the factor that is stated
    assert older_rope_keys(config)["rope_scaling"]["attention_factor"] == pytest.approx(1.0801234)


def test_positions_by_kind_of_layer_stay_as_they_are() -> None:
    assert older_rope_keys({"rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "default"}}}) == {}
    assert older_rope_keys({}) == {}
