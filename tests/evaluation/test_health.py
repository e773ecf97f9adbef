"""A sound model passes; each kind of damage is found and named."""

import json
import math

import pytest
import torch
from torch import nn

from secateur.evaluation import DiagnoseConfig, diagnose
from secateur.models import adapter_of, declare_widths
from secateur.models.widths import keep_columns, keep_rows


def errors(report):
    return [(problem.where, problem.what) for problem in report.problems if problem.severity == "error"]


@pytest.fixture
def model(tiny_model):
    return tiny_model()


@torch.no_grad()
def damage(model, layer, projection, change):
    change(getattr(model.model.layers[layer].mlp, projection).weight)


def cut_group(model, layer):
    """Take the last key/value head with its two query heads out of a layer."""
    attention = model.model.layers[layer].self_attn
    for name, kept in (("q_proj", 96), ("k_proj", 48), ("v_proj", 48)):
        keep_rows(getattr(attention, name), range(kept))
    keep_columns(attention.o_proj, range(96))


def test_every_family_is_sound(tiny_model, family):
    report = diagnose(tiny_model(family))
    assert report.problems == [] and report.healthy
    assert {tensor.name for tensor in report.tensors} == dict(tiny_model(family).named_parameters()).keys()


def test_an_uneven_model_is_sound(model):
    cut_group(model, 1)
    keep_rows(model.model.layers[2].mlp.gate_proj, range(50))
    keep_rows(model.model.layers[2].mlp.up_proj, range(50))
    keep_columns(model.model.layers[2].mlp.down_proj, range(50))
    declare_widths(model)
    assert diagnose(model).problems == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "2 of 6,144 values are NaN"),
        (-math.inf, "2 of 6,144 values are infinite"),
        (3e4, "largest absolute value 3e+04, above 10000"),
    ],
)
def test_bad_values_are_named(model, value, message):
    damage(model, 2, "up_proj", lambda weight: weight[5, :2].fill_(value))
    report = diagnose(model)
    assert ("model.layers.2.mlp.up_proj.weight", message) in errors(report)
    assert not report.healthy


def test_what_is_huge_can_be_chosen(model):
    damage(model, 2, "up_proj", lambda weight: weight[5, 0].fill_(300.0))
    assert diagnose(model).healthy
    assert not diagnose(model, huge=200).healthy
    assert not diagnose(model, config=DiagnoseConfig(huge=200)).healthy


def test_not_finite_logits_are_an_error(model):
    damage(model, 0, "down_proj", lambda weight: weight.fill_(math.nan))
    assert ("forward pass", f"{32 * 259:,} of {32 * 259:,} logits are not finite") in errors(diagnose(model))


def test_zeros_are_counted_and_dead_rows_are_a_warning(model):
    damage(model, 1, "gate_proj", lambda weight: weight[:12].zero_())
    report = diagnose(model)
    gate = next(t for t in report.tensors if t.name == "model.layers.1.mlp.gate_proj.weight")
    assert gate.zeros == pytest.approx(12 / 96) and gate.dead_rows == 12
    assert [(p.what, p.severity) for p in report.problems] == [("12 of 96 rows are zero", "warning")]
    assert report.healthy


def test_a_weight_of_zeros_only_is_an_error(model):
    damage(model, 3, "down_proj", lambda weight: weight.zero_())
    assert errors(diagnose(model)) == [("model.layers.3.mlp.down_proj.weight", "all values are zero")]


def test_shapes_that_differ_from_the_config(model):
    keep_rows(model.model.layers[1].mlp.gate_proj, range(90))
    problem = ("layer 1 gate_proj", "its shape is (90, 64), the config says (96, 64)")
    assert errors(diagnose(model)) == [problem]


def test_a_ratio_of_heads_that_is_another_in_one_layer(model):
    attention = model.model.layers[2].self_attn
    keep_rows(attention.q_proj, range(64))
    keep_columns(attention.o_proj, range(64))
    declare_widths(model)
    what = "4 query heads over 4 key/value heads"
    assert errors(diagnose(model)) == [
        ("layer 2", f"{what}, a ratio of 1 where other layers have 2"),
        ("layer 2", f"{what}, but its attention repeats each 2 times"),
    ]


def test_a_layer_too_few(model):
    del adapter_of(model).layers(model)[3]
    assert ("layers", "3 layers, the config says 4") in errors(diagnose(model))


def test_widths_that_the_config_has_otherwise(model):
    cut_group(model, 1)
    declare_widths(model)
    model.config.per_layer_config = {2: {"intermediate_size": 8}}
    found = errors(diagnose(model))
    assert ("layer 2 up_proj", "its shape is (96, 64), the config says (8, 64)") in found
    assert any(where == "layer 1 q_proj" for where, _ in found)


@pytest.mark.parametrize(("factor", "values"), [(1.0, "equal for now"), (1.1, "of different values")])
def test_embeddings_that_should_be_tied(model, factor, values):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * factor)
    what = f"the config ties them to the input embeddings; two tensors, {values}"
    assert errors(diagnose(model)) == [("output embeddings", what)]


def test_a_loss_worse_than_guessing(model):
    windows = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(0))
    model.model.norm.weight.data.mul_(30)
    report = diagnose(model, windows)
    assert report.uniform_loss == pytest.approx(math.log(259))
    assert report.loss > report.uniform_loss
    assert errors(report) == [
        ("forward pass", f"the loss of text is {report.loss:.2f}, above the 5.56 of guessing any token")
    ]
    assert diagnose(model).loss is None


def test_a_tokenizer_larger_than_the_vocabulary(model):
    report = diagnose(model, torch.full((1, 8), 259))
    assert errors(report) == [("tokenizer", "the tokenizer gives token 259, the model's vocabulary has 259")]


def test_runs_the_text_of_the_config(model, tiny_tokenizer, tmp_path, private_cache):
    text = tmp_path / "text.txt"
    text.write_text("Pruning makes room for growth. " * 20, encoding="utf-8")
    model.model.norm.weight.data.zero_().add_(1e-4)
    report = diagnose(model, tiny_tokenizer, data=str(text), seqlen=32, windows=2)
    assert report.healthy and report.loss == pytest.approx(report.uniform_loss, rel=0.01)


def test_the_report_is_plain_json(model):
    damage(model, 2, "up_proj", lambda weight: weight[5, 0].fill_(math.nan))
    content = json.loads(json.dumps(diagnose(model).to_dict(), allow_nan=False))
    assert content["healthy"] is False
    assert content["problems"][0]["where"] == "model.layers.2.mlp.up_proj.weight"
