"""Training sparse models: zeros stay, merging is exact, what would fill them is refused."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from secateur.errors import InputError, TrainingError
from secateur.models import attach_adapter
from secateur.models.masks import lost_zeros, zero_masks
from secateur.recovery import RecoverConfig, RecoverResult, merge_adapter
from secateur.recovery import masked as masked_module
from secateur.recovery.masked import MaskedUpdate

Train = Callable[..., RecoverResult]
TinyModel = Callable[..., PreTrainedModel]


def sparse(model: PreTrainedModel) -> PreTrainedModel:
    """Half of the weights of all projections but one are zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and "layers" in name and not name.endswith("1.mlp.up_proj"):
                module.weight.mul_(torch.rand(module.weight.shape, generator=generator) > 0.5)
    return model


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("masked-lora", {}),
        ("masked", {"lr": 3e-3, "weight_decay": 0.1}),
        ("masked", {"lr": 3e-3, "micro_batch_size": 1, "gradient_checkpointing": True}),
        ("masked-lora", {"gradient_checkpointing": True}),
    ],
)
def test_training_helps_and_fills_no_zero(
    train: Train, tiny_model: TinyModel, family: str, method: str, settings: dict[str, Any]
) -> None:
    model = sparse(tiny_model(family))
    masks, before = zero_masks(model), weights_of(model)
    assert len(masks) == 4 * 7 - 1
    result = train(model, method=method, epochs=3, **settings)
    assert result.history[-1]["eval_cross_entropy"] < result.history[0]["eval_cross_entropy"] - 0.05
    assert result.sparsity == pytest.approx(0.5, abs=0.01)
    loaded = AutoModelForCausalLM.from_pretrained(result.output)
    assert type(loaded) is type(model)
    after = weights_of(loaded)
    assert after.keys() == before.keys()
    for name, weight in before.items():
        if name.endswith("_proj.weight") and "1.mlp.up_proj" not in name:
            assert torch.equal(after[name] == 0, weight == 0), name
            assert not torch.equal(after[name], weight), name
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert ("model.embed_tokens.weight" in changed) == (method == "masked")
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(loaded(tokens).logits, result.model(tokens).logits)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["masked-lora", "masked"])
def test_bfloat16_keeps_zeros_and_format(train: Train, tiny_model: TinyModel, method: str) -> None:
    model = sparse(tiny_model()).bfloat16()
    masks = zero_masks(model)
    result = train(model, method=method, epochs=2, lr=1e-3)
    loaded = AutoModelForCausalLM.from_pretrained(result.output)
    assert loaded.dtype == torch.bfloat16
    assert lost_zeros(loaded, masks) == 0
    assert zero_masks(loaded).keys() == masks.keys()


def test_a_weight_that_training_brings_to_zero_is_no_new_zero(tiny_model: TinyModel) -> None:
    model = sparse(tiny_model())
    masks = zero_masks(model)
    masked_module.add_masks(model, masks)
    linear = model.model.layers[0].mlp.down_proj
    with torch.no_grad():
        linear.parametrizations.weight.original.zero_()
    masked_module.bake_in(model)
    after = zero_masks(model)
    assert after.keys() == masks.keys()
    assert all(torch.equal(after[name], masks[name]) for name in masks)


def test_a_masked_update_is_the_paper_s_formula() -> None:
    mask = torch.rand(6, 5) > 0.5
    update = MaskedUpdate(mask, r=2, alpha=3)
    nn.init.normal_(update.up)
    weight = torch.randn(6, 5)
    torch.testing.assert_close(update(weight), weight + 1.5 * mask * (update.up @ update.down))
    update(weight).sum().backward()
    expected = 1.5 * mask.float() @ update.down.T
    torch.testing.assert_close(update.up.grad, expected)


def test_auto_is_masked_lora_for_sparse_models_and_lora_for_others() -> None:
    assert RecoverConfig().settled(sparse=True).method == "masked-lora"
    assert RecoverConfig().settled(sparse=False).method == "lora"


def test_plain_lora_beside_zeros_has_the_papers_settings_unless_told_otherwise() -> None:
    classic = RecoverConfig(method="lora").settled(sparse=True)
    assert (classic.lora_target, classic.learning_rate, classic.seqlen) == ("q_proj,v_proj", 1e-4, 1024)
    chosen = RecoverConfig(method="lora", seqlen=512, lr=1e-3).settled(sparse=True)
    assert (chosen.learning_rate, chosen.seqlen) == (1e-3, 512)
    assert RecoverConfig(method="lora").settled(sparse=False).seqlen == 512


@pytest.mark.slow
def test_a_plain_adapter_stands_beside_the_zeros_and_merging_must_be_chosen(
    train: Train, tiny_model: TinyModel
) -> None:
    model = sparse(tiny_model())
    masks = zero_masks(model)
    adapter = train(model, method="lora", seqlen=32, lora_target="attention,mlp", lr=1e-3, epochs=2).output
    assert (adapter / "adapter_config.json").is_file()
    with pytest.raises(InputError, match=r"50% zeros, which a merged adapter would fill; .*zeros=.keep.*zeros=.fill"):
        merge_adapter(sparse(tiny_model()), adapter)
    kept = merge_adapter(sparse(tiny_model()), adapter, keep_zeros=True)
    dense = merge_adapter(sparse(tiny_model()), adapter, allow_dense=True)
    assert lost_zeros(kept, masks) == 0
    assert lost_zeros(dense, masks) > 1000
    for name, weight in weights_of(dense).items():
        original = weights_of(sparse(tiny_model()))[name]
        expected = torch.where(original == 0, original, weight) if name.endswith("_proj.weight") else weight
        if "1.mlp.up_proj" not in name:
            torch.testing.assert_close(weights_of(kept)[name], expected)
    beside = attach_adapter(sparse(tiny_model()), adapter)(torch.arange(9)[None]).logits
    torch.testing.assert_close(dense(torch.arange(9)[None]).logits, beside, rtol=1e-4, atol=1e-4)


def test_a_lost_zero_is_an_error(train: Train, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_module.MaskedWeight, "forward", lambda self, weight: weight + 1e-3)
    with pytest.raises(TrainingError, match=r"training has filled [\d,]+ of the model's zeros"):
        train(sparse(tiny_model()), method="masked")


@pytest.mark.slow
def test_a_stopped_masked_training_goes_on(
    train: Train, tiny_model: TinyModel, stopped_at: Callable[[int], AbstractContextManager[None]]
) -> None:
    settings: dict[str, Any] = {"method": "masked-lora", "epochs": 2, "checkpoint_steps": 3}
    whole = train(sparse(tiny_model()), "whole", **settings)
    with stopped_at(7):
        train(sparse(tiny_model()), **settings)
    resumed = train(sparse(tiny_model()), **settings)
    assert resumed.history == whole.history
    assert all(torch.equal(w, weights_of(whole.model)[name]) for name, w in weights_of(resumed.model).items())


def test_the_record_names_method_and_sparsity(train: Train, tiny_model: TinyModel) -> None:
    record = json.loads((train(sparse(tiny_model())).output / "recovery.json").read_text())
    assert record["method"] == record["settings"]["method"] == "masked-lora"
    assert record["sparsity"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("zeros", "options", "message"),
    [
        (False, {"method": "masked"}, "method masked is for a model with zeros, and this one has none"),
        (False, {"method": "masked-lora"}, "method masked-lora is for a model with zeros"),
        (True, {"method": "full"}, "method full would fill the model's zeros; use method masked"),
        (True, {"method": "lora", "merge": True}, "merging a plain adapter would fill the model's zeros"),
        (True, {"method": "masked-lora", "lora_dropout": 0.1}, "lora_dropout is for method lora"),
        (True, {"method": "masked", "load_in_8bit": True}, "load_in_8bit is for method lora without merge"),
    ],
)
def test_what_does_not_go_together_is_refused(
    train: Train, tiny_model: TinyModel, zeros: bool, options: dict[str, Any], message: str
) -> None:
    model = sparse(tiny_model()) if zeros else tiny_model()
    with pytest.raises(InputError, match=message):
        train(model, **options)
