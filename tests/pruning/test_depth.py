"""Whole halves of layers, and whole layers, that leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

import secateur
from secateur.attention import apply, tune
from secateur.errors import InputError, SecateurError
from secateur.evaluation import diagnose, perplexity
from secateur.files import write_json
from secateur.models import LayerWidths, adapter_of, count_parameters, is_uneven, layer_widths, load, save
from secateur.pruning import PruneConfig, prune
from secateur.pruning.cutting import cut_and_refit
from secateur.pruning.units import part_shapes

QUICK: dict[str, Any] = {"samples": 6, "seqlen": 48, "batch_size": 3, "own_text": 0}
TOKENS = torch.arange(3, 60).reshape(3, 19)
Models = Callable[..., PreTrainedModel]


def silence(model: PreTrainedModel, layer: int, part: Any) -> None:
    """Have a half add nothing."""
    nn.init.zeros_(output_of(model, layer, part).weight)


def output_of(model: PreTrainedModel, layer: int, part: Any) -> nn.Linear:
    return adapter_of(model).half(adapter_of(model).layers(model)[layer], part).output


@pytest.fixture(scope="module")
def without_halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose first layer has no attention, and whose third has no MLP."""
    from tiny import make_tiny_model, make_tiny_tokenizer

    model, tokenizer, path = make_tiny_model(), make_tiny_tokenizer(), tmp_path_factory.mktemp("depth") / "m"
    prune(model, tokenizer, drop="attention=0,mlp=2", **QUICK)
    save(model, tokenizer, path)
    return path


@pytest.mark.parametrize(
    "family",
    ["llama", "qwen3", "gemma3_text", "phi3", "olmo2", "granite", "starcoder2", "cohere", "cohere2", "gpt_neox"],
)
def test_halves_that_add_nothing_leave_and_nothing_changes(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, family: str, tmp_path: Path
) -> None:
    model = tiny_model(family)
    for layer, part in ((0, "attention"), (2, "mlp")):
        silence(model, layer, part)
        bias = output_of(model, layer, part).bias
        if bias is not None:
            nn.init.zeros_(bias)
    expected, before = model(TOKENS).logits, count_parameters(model)
    result = prune(model, tiny_tokenizer, drop="attention=0,mlp=2", compensate=False, **QUICK)
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)
    assert count_parameters(model) == result.plan.parameters_after < before
    assert [width.num_key_value_heads for width in layer_widths(model)] == [0, 4, 4, 4]
    assert [width.intermediate_size for width in layer_widths(model)] == [96, 96, 0, 96]
    save(model, tiny_tokenizer, tmp_path / "m")
    loaded, _ = load(tmp_path / "m", dtype="float32")
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)
    assert count_parameters(loaded) == count_parameters(model) and layer_widths(loaded) == layer_widths(model)
    assert diagnose(loaded).problems == []
    cached, anew = (
        loaded.generate(TOKENS, max_new_tokens=8, do_sample=False, use_cache=use_cache, eos_token_id=-1)
        for use_cache in (True, False)
    )
    assert torch.equal(cached, anew)


def test_an_absent_attention_keeps_no_keys(without_halves: Path) -> None:
    model, _ = load(without_halves, dtype="float32")
    cache = model(TOKENS, use_cache=True).past_key_values
    assert [layer.keys.numel() for layer in cache.layers] == [3 * 19] + [3 * 4 * 19 * 16] * 3
    assert cache.get_seq_length() == 19
    greedy = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
    expected = model.generate(TOKENS, **greedy)
    assert torch.equal(model.generate(TOKENS, cache_implementation="static", **greedy), expected)
    beams = [model.generate(TOKENS, num_beams=2, use_cache=use_cache, **greedy) for use_cache in (True, False)]
    assert torch.equal(*beams)


def test_whole_layers_leave_a_stock_model(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny_model("qwen3")
    for part in ("attention", "mlp"):
        silence(model, 1, part)
    expected = model(TOKENS).logits
    prune(model, tiny_tokenizer, drop_layers=1, **QUICK, compensate=False)
    assert torch.allclose(model(TOKENS).logits, expected, atol=1e-5)
    assert layer_widths(model) == [LayerWidths(8, 4, 96)] * 3
    assert not is_uneven(model) and model.config.num_hidden_layers == 3
    save(model, tiny_tokenizer, tmp_path / "m")
    loaded, _ = load(tmp_path / "m", dtype="float32")
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)


def test_layers_of_several_kinds_stay_what_they_are(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_model("gemma3_text", layer_types=["sliding_attention", "full_attention"] * 2)
    for part in ("attention", "mlp"):
        silence(model, 1, part)
    tokens = torch.randint(0, 256, (2, 50))  # longer than the window
    expected = model(tokens).logits
    prune(model, tiny_tokenizer, drop="layers=1", compensate=False, **QUICK)
    assert model.config.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]
    torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("importance", ["obs", "magnitude", "activation", "taylor"])
def test_halves_leave_where_they_are_cheap(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, importance: str
) -> None:
    model = tiny_model()
    output_of(model, 2, "attention").weight.data.mul_(1e-4)
    options = {"ratio": 0.13, "target": "attention", "max_rate": 1.0, "importance": importance, **QUICK}
    prune(model, tiny_tokenizer, **options)
    assert [width.num_key_value_heads for width in layer_widths(model)][2] == 0
    kept = tiny_model()
    output_of(kept, 2, "attention").weight.data.mul_(1e-4)
    prune(kept, tiny_tokenizer, keep_halves=True, **options)
    assert all(width.num_key_value_heads for width in layer_widths(kept))


def test_only_whole_halves(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(num_hidden_layers=8)
    result = prune(model, tiny_tokenizer, ratio=0.3, target="depth", **QUICK)
    widths = [layer.after for layer in result.plan.layers]
    assert {width.num_key_value_heads for width in widths} <= {0, 4}
    assert {width.intermediate_size for width in widths} <= {0, 96}
    assert abs(result.plan.reached - 0.3) < 0.06


def test_an_attention_stays(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model()
    prune(model, tiny_tokenizer, ratio=0.38, target="attention", max_rate=1.0, importance="magnitude", **QUICK)
    assert any(width.num_key_value_heads for width in layer_widths(model))
    with pytest.raises(InputError, match="more than can be removed"):
        prune(tiny_model(), tiny_tokenizer, ratio=0.6, target="attention", max_rate=1.0, **QUICK)


def test_what_stands_before_a_gap_is_fitted_to_what_comes_after_it(tiny_model: Models) -> None:
    windows = torch.randint(0, 256, (32, 48), generator=torch.Generator().manual_seed(0))
    fitted, plain = tiny_model(), tiny_model()
    goal = fitted(windows, output_hidden_states=True).hidden_states[2]
    cut_and_refit(fitted, None, {(1, "mlp"): part_shapes(fitted)[1]["mlp"].units}, windows, 8, 0.01)
    silence(plain, 1, "mlp")
    error, unfitted = (
        float((model(windows, output_hidden_states=True).hidden_states[2] - goal).square().mean())
        for model in (fitted, plain)
    )
    assert error < 0.9 * unfitted


def test_a_search_may_drop_halves(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = tiny_model()
    output_of(model, 1, "attention").weight.data.mul_(1e-4)
    found = secateur.search(model, tiny_tokenizer, ratio=0.3, rounds=2, measured=4, max_rate=1.0, **QUICK)
    assert found.plan.layers[1].after.num_key_value_heads == 0
    write_json(tmp_path / "plan.json", found.plan.to_dict())
    prune(model, tiny_tokenizer, plan=str(tmp_path / "plan.json"), **QUICK)
    assert [layer.after for layer in found.plan.layers if any(vars(layer.after).values())] == layer_widths(model)


def test_what_else_people_do_with_it(without_halves: Path, tmp_path: Path) -> None:
    model, tokenizer = load(without_halves, dtype="float32")
    windows = torch.randint(0, 256, (2, 32))
    assert perplexity(model, windows) > 1
    apply(model, tune(model, tokenizer, seqlen=256, samples=1, query_block=32, key_block=32))
    assert model(windows).logits.isfinite().all()
    model, tokenizer = load(without_halves, dtype="float32")
    secateur.sparsify(model, tokenizer, sparsity=0.5, samples=4, seqlen=32)
    secateur.recover(model, tokenizer, tmp_path / "r", merge=True, samples=4, seqlen=32, val_size=0, zeros="fill")
    again, _ = load(tmp_path / "r", dtype="float32")
    assert layer_widths(again) == layer_widths(model)
    prune(again, tokenizer, ratio=0.1, **QUICK)
    assert layer_widths(again)[0].num_key_value_heads == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": "layers=9"}, "drop= names 9; the model has layers 0 to 3"),
        ({"drop": "layers=3-2"}, "drop= names 3-2"),
        ({"drop": "heads=1"}, "drop= has 'heads'; it can have layers, attention, mlp"),
        ({"drop": "1,2"}, "drop= cannot read '1'; write layers=20-24 or attention=25,26"),
        ({"drop": " ;"}, "drop=';' names nothing; write layers=20-24"),
        ({"drop": "attention=x"}, "drop= cannot read 'attention=x'"),
        ({"drop": "attention=0-3"}, "leave no softmax attention in the model"),
        ({"drop": "mlp=0-3"}, "leave no MLP in the model"),
        ({"drop_layers": 4}, "leave no softmax attention in the model"),
        ({"drop": "mlp=1", "target": "attention"}, "drop= names the mlp of layer 1, which cannot leave"),
        ({"drop": "mlp=1", "freeze": [1]}, "drop= names the mlp of layer 1, which cannot leave"),
        ({"drop": "attention=1", "keep_halves": True}, "keep_halves=True lets no half of a layer leave whole"),
        ({"drop_layers": 1, "keep_halves": True}, "keep_halves=True lets no half of a layer leave whole"),
        ({"target": "depth", "keep_halves": True}, "keep_halves=True lets no half of a layer leave whole"),
        ({"drop_layers": 5}, "drop_layers=5 is more than the 4 layers that can leave whole"),
        ({"drop_layers": 1, "even": True}, "even=True makes all layers equal"),
        ({"target": "depth", "even": True}, "even=True makes all layers equal"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SecateurError) as caught:
        prune(tiny_model(), tiny_tokenizer, importance="magnitude", **QUICK, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_of_a_hybrid_one_softmax_attention_stays(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model("qwen3_5_text")
    with pytest.raises(InputError, match="leave no softmax attention in the model"):
        prune(model, tiny_tokenizer, drop="attention=1,3", importance="magnitude", **QUICK)
    prune(model, tiny_tokenizer, target="attention", ratio=0.2, max_rate=1, **QUICK)
    assert sum(shape["attention"].heads > 0 for shape in part_shapes(model)) == 1


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_model_cut_in_place_gives_its_hidden_states(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, asked_before: bool
) -> None:
    model = tiny_model()
    for kind in (adapter_of(model).uneven_model, adapter_of(model).uneven_body):
        _CAN_RECORD_REGISTRY.pop(str(kind), None)  # as where none of the class has been made yet
    if asked_before:
        assert len(model(TOKENS, output_hidden_states=True).hidden_states) == 5
    prune(model, tiny_tokenizer, drop="attention=0,mlp=2", **QUICK)
    assert len(model(TOKENS, output_hidden_states=True).hidden_states) == 5


@pytest.mark.parametrize(
    ("family", "drop", "why"),
    [
        ("llama", "attention=0", "is not there"),
        ("qwen3_5_text", "attention=2", "cannot leave: it is linear attention"),
        ("gemma4_text", "mlp=0", "cannot leave: this family's layers keep theirs"),
    ],
)
def test_what_cannot_be_dropped_is_said_with_the_reason(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, family: str, drop: str, why: str
) -> None:
    model = tiny_model(family)
    if why == "is not there":
        prune(model, tiny_tokenizer, drop=drop, importance="magnitude", compensate=False, **QUICK)
    with pytest.raises(InputError, match=f"layer {drop[-1]}, which {why}"):
        prune(model, tiny_tokenizer, drop=drop, importance="magnitude", **QUICK)


def test_an_mlp_stays(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model()
    prune(model, tiny_tokenizer, target="mlp", ratio=0.38, max_rate=1, **QUICK)
    assert sum(bool(width.intermediate_size) for width in layer_widths(model)) == 1


def test_names_of_halves_are_read() -> None:
    asked = PruneConfig(drop="layers=1-2, attention=0 4; mlp=3").asked_to_leave(5)
    whole = {(layer, part) for layer in (1, 2) for part in ("attention", "mlp")}
    assert asked == whole | {(0, "attention"), (4, "attention"), (3, "mlp")}


@pytest.mark.parametrize(
    ("family", "settings", "options", "message"),
    [
        (
            "gemma4_text",
            {},
            {"target": "depth"},
            'target="depth" nothing can leave: the attention of layers 0, 2 cannot leave whole in this family; the '
            "MLP of layers 0-3 cannot leave whole",
        ),
        ("gemma4_text", {}, {"target": "attention", "layers": "1:2"}, "layer 1 stays as it is: it is attention that"),
        (
            "qwen3_5_text",
            {},
            {"target": "attention", "layers": "0:1"},
            "layer 0 stays as it is: it is linear attention",
        ),
        (
            "qwen3_5_text",
            {},
            {"target": "attention", "ratio": 0.5},
            "at most 0.298 .* layers 0, 2 stays as it is: it is",
        ),
        ("qwen3_5_text", {"layer_types": ["linear_attention"] * 4}, {}, "no layer of this model has softmax attention"),
        ("llama", {"num_key_value_heads": 1}, {"target": "attention", "keep_halves": True}, "keeps, one GQA group"),
        (
            "llama",
            {},
            {"target": "depth", "max_rate": 0.1},
            "attention of layers 0-3 has no step as small as max_rate=0.1",
        ),
        ("gemma4_text", {}, {"drop_layers": 1}, "drop_layers=1 is more than the 0 layers that can leave whole in this"),
    ],
    ids=str,
)
def test_where_nothing_can_leave_the_reason_is_said_before_anything_is_measured(
    tiny_model: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    family: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    model = tiny_model(family, **settings)
    for command in (prune, secateur.search):
        with pytest.raises(SecateurError, match=message) as caught:
            command(model, tiny_tokenizer, data="none of this.txt", **options)
        assert "\n" not in str(caught.value)
