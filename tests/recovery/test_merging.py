"""Adapters into weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.models import attach_adapter
from secateur.recovery import RecoverResult, merge_adapter

Train = Callable[..., RecoverResult]
TinyModel = Callable[..., PreTrainedModel]


@pytest.fixture
def adapter(train: Train, tiny_model: TinyModel) -> Path:
    return train(tiny_model(), "adapter", epochs=2).output


@pytest.mark.slow
def test_merged_and_unmerged_give_the_same_logits(adapter: Path, tiny_model: TinyModel) -> None:
    tokens = torch.arange(30)[None]
    unmerged = attach_adapter(tiny_model(), adapter)(tokens).logits
    merged = merge_adapter(tiny_model(), adapter)
    assert not isinstance(merged, PeftModel)
    assert set(merged.state_dict()) == set(tiny_model().state_dict())
    torch.testing.assert_close(merged(tokens).logits, unmerged, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(unmerged, tiny_model()(tokens).logits, atol=1e-2)


@pytest.mark.slow
def test_recover_with_merge_does_both(adapter: Path, train: Train, tiny_model: TinyModel) -> None:
    direct = train(tiny_model(), "merged", epochs=2, merge=True).model
    merged = merge_adapter(tiny_model(), adapter)
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(direct.state_dict()[name], weight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"intermediate_size": 80}, "lora_A of model.layers.0.mlp.down_proj is for a width of 96 and the model has 80"),
        ({"num_hidden_layers": 3}, "this one has no projection model.layers.3"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    adapter: Path, tiny_model: TinyModel, other: dict[str, int], message: str
) -> None:
    model = tiny_model(**other)
    names = set(model.state_dict())
    with pytest.raises(ModelError, match=message) as caught:
        merge_adapter(model, adapter)
    assert "\n" not in str(caught.value)
    assert set(model.state_dict()) == names


def test_a_config_with_a_wrong_type_is_refused(adapter: Path, tiny_model: TinyModel) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "r": "eight"}))
    with pytest.raises(ModelError, match="does not fit the model"):
        merge_adapter(tiny_model(), adapter)


def test_directories_without_a_sound_adapter(adapter: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it has no adapter_config\.json"):
        merge_adapter(tiny_model(), tmp_path)
    with pytest.raises(ModelError, match=r"^~nobody-of-that-name/adapter does not exist$"):
        merge_adapter(tiny_model(), "~nobody-of-that-name/adapter")
    with pytest.raises(ModelError, match=r"nowhere does not exist$"):
        merge_adapter(tiny_model(), tmp_path / "nowhere")
    (tmp_path / "nowhere.partial").mkdir()
    with pytest.raises(ModelError, match=r"nowhere\.partial is an unfinished training: the same recover command"):
        merge_adapter(tiny_model(), tmp_path / "nowhere")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="truncated or corrupted"):
        merge_adapter(tiny_model(), adapter)
    weights.rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="not opened"):
        merge_adapter(tiny_model(), adapter)


@pytest.mark.slow
def test_sums_that_are_no_numbers(adapter: Path, tiny_model: TinyModel) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({name: 1e30 * weight for name, weight in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(
        ModelError, match=f"with the adapter {adapter} merged, .* holds NaN or infinite values"
    ) as caught:
        merge_adapter(tiny_model(), adapter)
    assert "\n" not in str(caught.value)
