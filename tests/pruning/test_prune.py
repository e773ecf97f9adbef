"""Cutting whole models: what leaves, what stays, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.calibration import own_text
from secateur.calibration.sensitivity import LEAST_METRIC, loss_metrics, stream_sensitivity
from secateur.calibration.windows import calibrate
from secateur.data import load_corpus, token_windows
from secateur.errors import DataError, InputError
from secateur.models import adapter_of, count_parameters, declared_widths, layer_widths
from secateur.pruning import LayerImportance, PruneConfig, PruneResult, measure_layer_importance, prune
from secateur.pruning.importance import activation_scores, magnitude_scores, taylor_scores
from secateur.pruning.scoring import metrics_of_layers, obs_scores

QUICK: dict[str, Any] = {"samples": 6, "seqlen": 48, "batch_size": 3, "layer_importance_samples": 2}
Models = Callable[..., PreTrainedModel]


def run(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **options: Any) -> PruneResult:
    return prune(model, tokenizer, **{**QUICK, "ratio": 0.3, **options})


@pytest.mark.parametrize("importance", ["obs", "taylor", "activation", "magnitude"])
@pytest.mark.parametrize("compensate", [True, False])
def test_ratio_is_met_and_groups_stay_whole(
    tiny_model: Models, family: str, tiny_tokenizer: PreTrainedTokenizerFast, importance: str, compensate: bool
) -> None:
    model = tiny_model(family)
    before = count_parameters(model)
    result = run(model, tiny_tokenizer, importance=importance, compensate=compensate)
    assert abs(1 - count_parameters(model) / before - 0.3) < 0.005
    assert result.plan.parameters_after == count_parameters(model)
    assert all(width.num_attention_heads == 2 * width.num_key_value_heads for width in layer_widths(model))
    assert declared_widths(model) == layer_widths(model)
    assert model(torch.arange(20)[None]).logits.isfinite().all()


@pytest.mark.slow
def test_half_of_the_calibration_is_the_models_own_text(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path
) -> None:
    corpus = load_corpus("pydocs")
    options = {"samples": 7, "seqlen": 48, "seed": 3}
    model = tiny_model()
    mixed = calibrate(model, tiny_tokenizer, PruneConfig(**options))
    text = token_windows(tiny_tokenizer, corpus, 48, limit=4, seed=3)
    assert mixed.own == 3
    assert torch.equal(mixed.windows, torch.cat([text, own_text(model, tiny_tokenizer, 3, 48, seed=3)]))
    alone = calibrate(model, tiny_tokenizer, PruneConfig(**options, own_text=0))
    assert torch.equal(alone.windows, token_windows(tiny_tokenizer, corpus, 48, limit=7, seed=3))
    assert "3 of 6 windows written by the model itself" in run(model, tiny_tokenizer).plan.calibration


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ratio=st.floats(0.05, 0.5),
    allocation=st.sampled_from(["global", "inverse", "proportional", "uniform"]),
    target=st.sampled_from(["both", "mlp"]),
)
def test_any_allocation_meets_the_ratio(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, ratio: float, allocation: str, target: str
) -> None:
    model = tiny_model(intermediate_size=768)
    importance = LayerImportance("removal", [3.0, 0.1, 0.2, 1.0])
    result = prune(
        model,
        tiny_tokenizer,
        ratio=ratio,
        allocation=allocation,
        target=target,
        importance="magnitude",
        compensate=False,
        max_rate=0.95,
        layer_importance=importance if allocation in ("inverse", "proportional") else None,
        **QUICK,
    )
    assert abs(result.plan.reached - ratio) < 0.005


def test_inverse_spares_important_layers_and_proportional_does_not(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    importance = LayerImportance("removal", [4.0, 1.0, 1.0, 1.0])
    rates = {}
    for allocation in ("inverse", "proportional"):
        result = prune(
            tiny_model(), tiny_tokenizer, ratio=0.2, allocation=allocation, layer_importance=importance, **QUICK
        )
        rates[allocation] = [layer.rate for layer in result.plan.layers]
    assert rates["inverse"][0] < min(rates["inverse"][1:])
    assert rates["proportional"][0] > max(rates["proportional"][1:])


def test_layers_are_scored_where_an_option_asks_for_it(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    options = {"ratio": 0.3, "samples": 2, "seqlen": 48}
    assert "layer_importance.json" not in prune(tiny_model(), tiny_tokenizer, **options).files()
    asked = prune(tiny_model(), tiny_tokenizer, layer_importance_samples=1, **options)
    assert asked.files()["layer_importance.json"]["method"] == "removal"


def kill_channel(model: PreTrainedModel, layer: int, channel: int) -> None:
    mlp = model.model.layers[layer].mlp
    with torch.no_grad():
        mlp.up_proj.weight[channel] = 0
        mlp.gate_proj.weight[channel] = 0
        mlp.down_proj.weight[:, channel] = 0


def kill_group(model: PreTrainedModel, layer: int, group: int) -> None:
    attention = model.model.layers[layer].self_attn
    with torch.no_grad():
        for linear, rows in ((attention.q_proj, 32), (attention.k_proj, 16), (attention.v_proj, 16)):
            linear.weight[group * rows : (group + 1) * rows] = 0
            if linear.bias is not None:
                linear.bias[group * rows : (group + 1) * rows] = 0
        attention.o_proj.weight[:, group * 32 : (group + 1) * 32] = 0


@pytest.mark.parametrize("method", ["obs", "fisher", "taylor", "activation", "magnitude"])
def test_dead_units_go_first(tiny_model: Models, family: str, method: str) -> None:
    model = tiny_model(family)
    kill_channel(model, 1, 37)
    kill_group(model, 2, 3)
    windows = torch.randint(0, 256, (4, 32), generator=torch.Generator().manual_seed(0))
    scores = {
        "obs": lambda: obs_scores(model, windows, 2, 0.01),
        "fisher": lambda: obs_scores(model, windows, 2, 0.01, metrics_of_layers(model, windows, 4)),
        "taylor": lambda: taylor_scores(model, windows, 2),
        "activation": lambda: activation_scores(model, windows, 2),
        "magnitude": lambda: magnitude_scores(model),
    }[method]()
    assert scores[1]["mlp"].order[0] == 37
    assert scores[2]["attention"].order[0] == 3
    assert scores[1]["mlp"].costs[0] <= scores[1]["mlp"].costs[1:].min()


def test_removing_dead_units_changes_nothing(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model()
    for channel in range(8):
        kill_channel(model, 1, channel)
    kill_group(model, 2, 0)
    prompt = torch.arange(40)[None]
    expected = model(prompt).logits
    dead = (8 * 3 * 64 + 64 * (32 + 16 + 16 + 32)) / count_parameters(model)
    result = run(model, tiny_tokenizer, ratio=dead, compensate=False)
    assert result.plan.layers[1].removed_channels == list(range(8))
    assert result.plan.layers[2].removed_groups == [0]
    torch.testing.assert_close(model(prompt).logits, expected, rtol=1e-4, atol=1e-4)


def test_refitting_brings_the_logits_nearer_to_the_uncut_model(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt = torch.randint(32, 120, (4, 64), generator=torch.Generator().manual_seed(1))
    expected = tiny_model()(prompt).logits
    errors = {}
    for compensate in (True, False):
        model = tiny_model()
        prune(model, tiny_tokenizer, ratio=0.2, compensate=compensate, samples=64, seqlen=64, own_text=0, damping=0.01)
        errors[compensate] = (model(prompt).logits - expected).square().mean()
    assert errors[True] < errors[False]


def test_frozen_layers_and_ranges(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    result = run(tiny_model(), tiny_tokenizer, ratio=0.1, layers="1:4", freeze="2", max_rate=0.9)
    assert [layer.frozen for layer in result.plan.layers] == [True, False, True, False]
    assert [layer.rate > 0 for layer in result.plan.layers] == [False, True, False, True]


def test_targets(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    attention = run(tiny_model(), tiny_tokenizer, ratio=0.09, target="attention").plan
    assert all(not layer.removed_channels for layer in attention.layers)
    mlp = run(tiny_model(), tiny_tokenizer, target="mlp").plan
    assert all(not layer.removed_groups for layer in mlp.layers)


def test_attention_share(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    plan = run(tiny_model(), tiny_tokenizer, attention_share=0.5).plan
    group = 64 * (32 + 16 + 16 + 32)
    lost = sum(len(layer.removed_groups) for layer in plan.layers) * group
    assert lost / (plan.parameters_before - plan.parameters_after) == pytest.approx(0.5, abs=0.06)


def test_even_gives_the_stock_architecture(
    tiny_model: Models, family: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_model(family, intermediate_size=768)
    stock = type(model)
    result = run(model, tiny_tokenizer, even=True)
    assert type(model) is stock
    assert len(set(layer_widths(model))) == 1
    assert abs(result.plan.reached - 0.3) < 0.005


def test_same_seed_same_cut(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    models = [tiny_model(), tiny_model()]
    plans = [run(model, tiny_tokenizer).plan.to_dict() for model in models]
    assert plans[0] == plans[1]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["removal", "activation", "similarity"])
def test_a_layer_that_does_nothing_scores_zero(tiny_model: Models, method: Any) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    windows = torch.randint(0, 256, (3, 32), generator=torch.Generator().manual_seed(0))
    scores = measure_layer_importance(model, windows, method, batch_size=2).importance
    assert abs(scores[2]) < 1e-6
    assert all(abs(score) > 1e-4 for index, score in enumerate(scores) if index != 2)


def test_removal_equals_skipping_the_layer(tiny_model: Models) -> None:
    model = tiny_model()
    windows = torch.randint(0, 256, (3, 32), generator=torch.Generator().manual_seed(0))
    scores = measure_layer_importance(model, windows, "removal", batch_size=2).importance
    with torch.no_grad():
        base = model(windows, labels=windows, use_cache=False).loss
        del model.model.layers[1]
        model.config.num_hidden_layers = 3
        without = model(windows, labels=windows, use_cache=False).loss
    assert scores[1] == pytest.approx(float(without - base), abs=1e-5)


def gradient_behind_the_last_layer(model: PreTrainedModel, windows: torch.Tensor) -> torch.Tensor:
    """Of the summed loss, by PyTorch from the model's own loss."""
    hidden = []
    last = adapter_of(model).layers(model)[3]
    handle = last.register_forward_hook(lambda _, __, output: hidden.append(output))
    loss = model(windows, labels=windows).loss * windows[:, 1:].numel()
    handle.remove()
    return torch.autograd.grad(loss, hidden[0])[0]


def test_sensitivity_is_that_of_the_gradient(tiny_model: Models) -> None:
    model = tiny_model()
    windows = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))
    measured = stream_sensitivity(model, windows, batch_size=2)[3]["mlp"]
    gradient = gradient_behind_the_last_layer(model, windows)
    assert measured == pytest.approx(float(gradient.square().sum(-1).mean()) / (2 * 64), rel=1e-4)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_metric_weighs_directions_by_the_gradient(tiny_model: Models) -> None:
    model = tiny_model()
    windows = torch.randint(0, 256, (8, 16), generator=torch.Generator().manual_seed(0))
    root = loss_metrics(model, windows, batch_size=2).of(3, "mlp")
    gradient = gradient_behind_the_last_layer(model, windows)
    error = torch.randn(64, generator=torch.Generator().manual_seed(1))
    along, mean = (gradient @ error).square().mean(), gradient.square().sum(-1).mean() / 64
    expected = 0.5 * ((1 - LEAST_METRIC) * along + LEAST_METRIC * mean * error.square().sum())
    assert float((root @ error).square().sum()) == pytest.approx(float(expected), rel=1e-4)


def test_how_layers_are_scored_can_be_said_in_a_word(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    found = prune(tiny_model(), tiny_tokenizer, ratio=0.2, layer_importance="similarity", **QUICK)
    assert found.layer_importance is not None and found.layer_importance.method == "similarity"


def test_importance_file_is_reused(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    from secateur.files import write_json

    first = run(tiny_model(), tiny_tokenizer, allocation="inverse")
    write_json(tmp_path / "layer_importance.json", first.files()["layer_importance.json"])
    again = run(
        tiny_model(),
        tiny_tokenizer,
        allocation="inverse",
        ratio=0.2,
        layer_importance_file=str(tmp_path / "layer_importance.json"),
    )
    assert again.layer_importance == first.layer_importance


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5])
def test_ratio_outside_0_1(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        PruneConfig(ratio=ratio)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.95}, "more than can be removed.*at most 0"),
        ({"ratio": 0.5, "target": "attention"}, "more than can be removed"),
        ({"layers": "2:9"}, "outside the model: it has layers 0 to 3"),
        ({"layers": "3:1"}, 'layers="3:1" names no layer'),
        ({"freeze": [4]}, "names layer 4; the model has layers 0 to 3"),
        ({"layers": "1:2", "freeze": [1]}, "no layer is left"),
        ({"even": True, "freeze": [0]}, "cannot be combined"),
        ({"min_rate": 0.6, "max_rate": 0.5}, "larger than max_rate"),
        ({"layer_importance_file": "/nowhere.json", "allocation": "inverse"}, "cannot be read"),
    ],
)
def test_bad_options_say_what_to_do(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(tiny_model(), tiny_tokenizer, **options)


def test_importance_of_another_model(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = tmp_path / "layer_importance.json"
    file.write_text('{"method": "removal", "importance": [1, 2]}')
    with pytest.raises(InputError, match="2 layers; this one has 4"):
        run(tiny_model(), tiny_tokenizer, allocation="inverse", layer_importance_file=str(file))
    file.write_text("[]")
    with pytest.raises(InputError, match=r"is not a layer_importance\.json"):
        run(tiny_model(), tiny_tokenizer, allocation="inverse", layer_importance_file=str(file))


def test_text_shorter_than_a_window(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(DataError, match=r"short\.txt"):
        run(tiny_model(), tiny_tokenizer, calibration=str(tmp_path / "short.txt"))


def test_the_public_function_is_the_same() -> None:
    assert secateur.prune is prune
