"""`prune --plan`: a cut that a file prescribes."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.errors import InputError
from secateur.models import layer_widths
from secateur.pruning import PruneConfig, prune
from secateur.pruning.plan_file import read_plan
from secateur.pruning.units import identity

QUICK: dict[str, Any] = {"samples": 4, "seqlen": 48, "batch_size": 2, "own_text": 0.0}
Models = Callable[..., PreTrainedModel]


def written(path: Path, content: object) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def entries(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"layers": list(layers)}


def test_the_plan_of_a_cut_repeats_it(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, family: str
) -> None:
    first, second = tiny_model(family), tiny_model(family)
    done = prune(first, tiny_tokenizer, ratio=0.3, freeze=[2], **QUICK)
    file = written(tmp_path / "plan.json", done.plan.to_dict())
    again = prune(second, tiny_tokenizer, plan=file, **QUICK)
    for name, weight in first.state_dict().items():
        assert torch.allclose(weight, second.state_dict()[name], atol=1e-5), name
    assert again.plan.reached == done.plan.reached == again.plan.ratio
    assert [layer.removed_channels for layer in again.plan.layers] == [
        layer.removed_channels for layer in done.plan.layers
    ]
    assert [layer.frozen for layer in again.plan.layers] == [False, False, True, False]


@pytest.mark.parametrize("importance", ["obs", "magnitude"])
@pytest.mark.parametrize("compensate", [True, False])
def test_a_plan_by_hand_names_widths_only(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, importance: str, compensate: bool
) -> None:
    model = tiny_model()
    plan = entries(
        {"layer": 1, "num_key_value_heads": 3}, {"layer": 3, "intermediate_size": [96, 40], "removed_groups": [2, 0]}
    )
    file = written(tmp_path / "plan.json", plan)
    result = prune(model, tiny_tokenizer, plan=file, importance=importance, compensate=compensate, **QUICK)
    widths = layer_widths(model)
    assert [width.num_key_value_heads for width in widths] == [4, 3, 4, 2]
    assert [width.intermediate_size for width in widths] == [96, 96, 96, 40]
    assert result.plan.layers[3].removed_groups == [0, 2]
    assert model(torch.arange(20)[None]).logits.isfinite().all()


def test_named_channels_are_those_that_leave(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny_model()
    uncut = copy.deepcopy(model)
    file = written(tmp_path / "plan.json", entries({"layer": 0, "removed_channels": [5, 90]}))
    prune(model, tiny_tokenizer, plan=file, **QUICK)
    kept = [channel for channel in range(96) if channel not in (5, 90)]
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, uncut.model.layers[0].mlp.up_proj.weight[kept])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "no list 'layers'"),
        ({"layers": [3]}, "no list 'layers'"),
        (entries({"layer": 4}), "this model has layers 0 to 3"),
        (entries({"layer": True}), "this model has layers 0 to 3"),
        (entries({"layer": 1, "removed_channels": [1]}, {"layer": 1}), "stands there twice"),
        (entries({"layer": 0, "removed_channels": "all"}), "must be a list of indices"),
        (entries({"layer": 0, "removed_channels": [96]}), "names 96; this model's layer has 96 MLP channels"),
        (entries({"layer": 0, "removed_channels": [1, 1]}), "names a unit twice"),
        (entries(*({"layer": layer, "removed_groups": [0, 1, 2, 3]} for layer in range(4))), "leaves no softmax"),
        (entries(*({"layer": layer, "intermediate_size": 0} for layer in range(4))), "leaves no MLP"),
        (entries({"layer": 0, "intermediate_size": [1536, 1024]}), "of a model with intermediate_size 1536"),
        (entries({"layer": 0, "intermediate_size": -1}), "must be a number"),
        (entries({"layer": 0, "intermediate_size": 97}), "must lie between 0 and 96"),
        (entries({"layer": 0, "intermediate_size": "half"}), "must be a number"),
        (entries({"layer": 0, "intermediate_size": 90, "removed_channels": [1]}), "leave out 'removed_channels'"),
        (entries({"layer": 0}), "removes nothing"),
        (entries(), "removes nothing"),
        (entries({"layer": 0, "num_kv_heads": 1}), r"entry has no 'num_kv_heads'; it can have .*num_key_value_heads"),
        (entries({"layer": 0, "x" * 5000: 1}), r"entry has no 'x{79}…; it can have"),
        (entries({"layer": "x" * 5000}), r"'layer' is 'x{79}…; this model"),
    ],
)
def test_what_is_no_plan_of_this_model_is_refused(
    tiny_model: Models, tmp_path: Path, content: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_plan(written(tmp_path / "plan.json", content), tiny_model())


@pytest.mark.parametrize(
    ("family", "layers", "message"),
    [
        ("qwen3_5_text", [{"layer": 0, "num_key_value_heads": 0}], "layer 0: units of its attention cannot leave"),
        ("qwen3_5_text", [{"layer": i, "num_key_value_heads": 0} for i in (1, 3)], "leaves no softmax attention"),
        ("gemma4_text", [{"layer": 1, "num_key_value_heads": 2}], "layer 1: units of its attention cannot leave"),
        ("gemma4_text", [{"layer": 0, "num_key_value_heads": 0}], "layer 0: its attention cannot leave whole"),
        ("gemma4_text", [{"layer": 0, "intermediate_size": 0}], "layer 0: its mlp cannot leave whole"),
    ],
)
def test_what_a_family_keeps_no_plan_takes(
    tiny_model: Models, tmp_path: Path, family: str, layers: list[dict[str, int]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_plan(written(tmp_path / "plan.json", entries(*layers)), tiny_model(family))


def test_what_is_no_json_is_refused(tiny_model: Models, tmp_path: Path) -> None:
    for text in ("layers: []", "[" * 100_000, f'{{"layers": {"9" * 6000}}}'):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(InputError, match=r"is not a pruning_plan\.json"):
            read_plan(tmp_path / "plan.json", tiny_model())
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path / "none.json", tiny_model())


def test_options_that_the_plan_decides_are_refused() -> None:
    with pytest.raises(ValueError, match=r"leave out --ratio, --freeze, or the plan"):
        PruneConfig(plan="plan.json", ratio=0.3, freeze=[1])


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("qwen3", {}, "is a plan of another model: its family is 'llama', this one's 'qwen3'"),
        ("llama", {"num_hidden_layers": 5}, "another model: its num_hidden_layers is 4, this one's 5"),
        ("llama", {"hidden_size": 128}, "another model: its hidden_size is 64, this one's 128"),
        ("llama", {"head_dim": 32}, "another model: its head_dim is 16, this one's 32"),
        ("llama", {"num_attention_heads": 4}, "another model: the sizes of its units are others"),
    ],
)
def test_the_plan_of_another_model_is_refused(
    tiny_model: Models, tmp_path: Path, family: str, settings: dict[str, int], message: str
) -> None:
    layers = [{"layer": 0, "num_key_value_heads": [4, 3]}]
    plan = written(tmp_path / "plan.json", {"layers": layers, "model": identity(tiny_model())})
    assert read_plan(plan, tiny_model(seed=1)).counts[0, "attention"] == 1
    with pytest.raises(InputError, match=message):
        read_plan(plan, tiny_model(family, **settings))
    earlier = written(tmp_path / "earlier.json", {"layers": layers})
    assert read_plan(earlier, tiny_model(family, **settings)).counts[0, "attention"] == 1


def test_what_a_plan_says_of_its_model_is_a_table(tiny_model: Models, tmp_path: Path) -> None:
    plan = written(tmp_path / "plan.json", {"layers": [{"layer": 0, "removed_groups": [0]}], "model": "llama"})
    with pytest.raises(InputError, match="'model' must say what model the plan is of"):
        read_plan(plan, tiny_model())
