"""The cut on tiny models: zeros where they should be and as many as asked, streams, memory, bad input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.data import load_corpus, token_windows
from secateur.errors import InputError
from secateur.models import adapter_of
from secateur.models.masks import lost_zeros, zero_masks
from secateur.sparsity import SparsifyConfig, SparsifyResult, sparsify
from secateur.sparsity.owl import layer_sparsities

Models = Callable[..., PreTrainedModel]
QUICK = {"samples": 4, "seqlen": 48, "batch_size": 2}
METHODS = ("magnitude", "wanda", "sparsegpt", "admm")


@pytest.fixture
def cut(tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path) -> Callable[..., SparsifyResult]:
    def run(model: PreTrainedModel, **options: Any) -> SparsifyResult:
        return sparsify(model, tiny_tokenizer, **{**QUICK, **options})

    return run


def linears(model: PreTrainedModel) -> dict[tuple[int, str], nn.Linear]:
    adapter = adapter_of(model)
    return {
        (index, name): linear
        for index, layer in enumerate(adapter.layers(model))
        for name, linear in adapter.projections(layer).items()
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_family_loses_its_share(
    cut: Callable[..., SparsifyResult], tiny_model: Models, family: str, method: str
) -> None:
    model = tiny_model(family)
    dense = {name: linear.weight.clone() for name, linear in linears(model).items()}
    embedding = model.get_input_embeddings().weight.clone()
    result = cut(model, method=method, sparsity=0.37)
    total = sum(weight.numel() for weight in dense.values())
    assert result.zeros == round(0.37 * total) == sum(int((lin.weight == 0).sum()) for lin in linears(model).values())
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    assert model(torch.arange(20)[None]).logits.isfinite().all()
    changed = any(
        not torch.equal(linear.weight[linear.weight != 0], dense[name][linear.weight != 0])
        for name, linear in linears(model).items()
    )
    assert changed == (method in ("sparsegpt", "admm"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", ["2:4", "3:8"])
def test_a_pattern_holds_in_every_group(
    cut: Callable[..., SparsifyResult], tiny_model: Models, method: str, pattern: str
) -> None:
    model = tiny_model()
    result = cut(model, method=method, pattern=pattern)
    kept, group = map(int, pattern.split(":"))
    for linear in linears(model).values():
        assert ((linear.weight.view(-1, group) == 0).sum(1) == group - kept).all()
    assert result.reached == 1 - kept / group
    assert {matrix.pattern for matrix in result.matrices} == {pattern}


def test_wanda_is_the_paper_s_score_on_what_the_cut_layers_before_give(
    cut: Callable[..., SparsifyResult], tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Layer 0's down_proj against a plain computation with hooks, one window at a time."""
    dense, model = tiny_model(), tiny_model()
    cut(model, method="wanda", seed=3)
    windows = token_windows(tiny_tokenizer, load_corpus("pydocs"), 48, limit=4, seed=3)
    seen: list[torch.Tensor] = []
    down = model.model.layers[0].mlp.down_proj
    down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for window in windows:
        model(window[None])
    norms = torch.cat(seen).flatten(0, 1).square().sum(0).sqrt()
    weight = dense.model.layers[0].mlp.down_proj.weight
    scores = weight.abs() * norms
    lowest = scores.argsort(1)[:, :48]
    assert torch.equal(down.weight == 0, torch.zeros_like(weight, dtype=torch.bool).scatter(1, lowest, True))


@pytest.mark.slow
def test_admm_stays_nearer_to_the_dense_model(cut: Callable[..., SparsifyResult], tiny_model: Models) -> None:
    tokens = torch.randint(32, 120, (8, 48), generator=torch.Generator().manual_seed(0))
    expected = tiny_model()(tokens).logits
    errors = {}
    for method in METHODS:
        model = tiny_model()
        cut(model, method=method, samples=32)
        errors[method] = (model(tokens).logits - expected).square().mean().item()
    assert errors["admm"] == min(errors.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["wanda", "admm"])
def test_where_activations_wait_changes_nothing(
    cut: Callable[..., SparsifyResult], tiny_model: Models, method: str
) -> None:
    weights = []
    for options in ({}, {"offload": "disk"}, {"layer_by_layer": True, "device": "cpu"}):
        model = tiny_model()
        cut(model, method=method, **options)
        weights.append(torch.cat([linear.weight.flatten() for linear in linears(model).values()]))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_layers_and_skip(cut: Callable[..., SparsifyResult], tiny_model: Models) -> None:
    model = tiny_model()
    before = {name: linear.weight.clone() for name, linear in linears(model).items()}
    result = cut(model, layers="1:3", skip="k_proj,2.down_proj,lm_head")
    expected = {key for key in before if key[0] in (1, 2) and key[1] != "k_proj" and key != (2, "down_proj")}
    assert {(matrix.layer, matrix.name) for matrix in result.matrices} == expected
    for name, linear in linears(model).items():
        assert torch.equal(linear.weight, before[name]) == (name not in expected)
    assert set(zero_masks(model)) == {f"{layer}.{name}" for layer, name in expected}


def test_owl_spares_layers_with_outliers(
    cut: Callable[..., SparsifyResult], tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """The shares of outliers against a plain count with hooks, and the zeros against the shares."""
    dense, model = tiny_model(), tiny_model()
    result = cut(model, method="wanda", allocation="owl", sparsity=0.6, owl_outlier=3.0)
    windows = token_windows(tiny_tokenizer, load_corpus("pydocs"), 48, limit=4, seed=0)
    norms: dict[tuple[int, str], torch.Tensor] = {}
    for key, linear in linears(dense).items():
        linear.register_forward_pre_hook(
            lambda _, inputs, key=key: norms.update({key: inputs[0].flatten(0, 1).square().sum(0).sqrt()})
        )
    with torch.no_grad():
        dense(windows)
    outliers, zeros = [], []
    for index in range(4):
        scores = [linear.weight.abs() * norms[key] for key, linear in linears(dense).items() if key[0] == index]
        layer = torch.cat([score.flatten() for score in scores])
        outliers.append(float((layer > 3 * layer.mean()).double().mean()))
        zeros.append(sum(matrix.zeros for matrix in result.matrices if matrix.layer == index))
    size = sum(linear.weight.numel() for key, linear in linears(dense).items() if key[0] == 0)
    expected = layer_sparsities(outliers, [size] * 4, 0.6, 0.08)
    assert [count / size for count in zeros] == pytest.approx(expected, abs=1e-3)
    assert sorted(range(4), key=lambda i: outliers[i]) == sorted(range(4), key=lambda i: -zeros[i])
    assert sum(zeros) == round(0.6 * 4 * size)


def test_owl_s_shares_have_the_mean_that_was_asked() -> None:
    shares = layer_sparsities([0.1, 0.3, 0.2], [100, 300, 100], 0.5, 0.08)
    assert shares[0] - shares[1] == pytest.approx(0.16)
    assert sum(s * n for s, n in zip(shares, (100, 300, 100), strict=True)) == pytest.approx(250)
    assert layer_sparsities([0.2, 0.2], [1, 1], 0.5, 0.08) == [0.5, 0.5]
    assert all(0 <= share <= 1 for share in layer_sparsities([0.0, 1.0], [1, 9], 0.97, 0.08))


def test_fisher_spares_what_the_loss_minds(cut: Callable[..., SparsifyResult], tiny_model: Models) -> None:
    """A matrix whose output nothing reads can lose the most; its zeros go where they cost nothing."""
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
    result = cut(model, sparsity=0.6, allocation="fisher", fisher_range=0.1, method="magnitude")
    shares = {(matrix.layer, matrix.name): matrix.sparsity for matrix in result.matrices}
    most = max(share for key, share in shares.items() if key != (1, "o_proj"))
    assert all(shares[1, name] == pytest.approx(most, abs=0.01) for name in ("q_proj", "k_proj", "v_proj"))
    assert min(shares.values()) >= 0.5 - 0.01


def test_fisher_keeps_more_of_rows_that_the_loss_minds(cut: Callable[..., SparsifyResult], tiny_model: Models) -> None:
    """A value head whose output nothing reads loses more of its row than its neighbours."""
    model = tiny_model()
    attention = model.model.layers[1].self_attn
    heads = model.config.num_attention_heads // model.config.num_key_value_heads * attention.head_dim
    with torch.no_grad():
        attention.o_proj.weight[:, :heads] = 0
    cut(model, method="magnitude", allocation="fisher")
    unread, read = (attention.v_proj.weight == 0).float().mean(1).split(attention.head_dim)[:2]
    assert unread.mean() > 0.9 > read.mean()


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.97])
def test_fisher_keeps_the_total_and_changes_no_gradient_flags(
    cut: Callable[..., SparsifyResult], tiny_model: Models, sparsity: float
) -> None:
    model = tiny_model()
    result = cut(model, sparsity=sparsity, allocation="fisher", method="wanda")
    total = sum(linear.weight.numel() for linear in linears(model).values())
    assert result.zeros == round(sparsity * total)
    assert len({round(matrix.sparsity, 3) for matrix in result.matrices}) > 3
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_same_seed_gives_the_same_zeros(cut: Callable[..., SparsifyResult], tiny_model: Models) -> None:
    first, second = tiny_model(), tiny_model()
    assert cut(first).to_dict() == cut(second).to_dict()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0: input should be less than 1"),
        ({"sparsity": 0}, "sparsity=0: input should be greater than 0"),
        ({"pattern": "2:5"}, r"the pattern 2:5 does not divide the input width 64 of q_proj in layer 0"),
        ({"pattern": "4:2"}, "'4:2' is no pattern; write N:M"),
        ({"pattern": "2:4", "sparsity": 0.5}, "give sparsity or pattern, not both"),
        ({"pattern": "2:4", "allocation": "owl"}, "a pattern is the same in every layer"),
        (
            {"method": "wanda", "damping": 0.1},
            "damping has no effect on this cut; it is for methods admm and sparsegpt",
        ),
        (
            {"allocation": "owl", "fisher_range": 0.1},
            "fisher_range has no effect on this cut; it is for allocation fisher",
        ),
        ({"pattern": "2:4", "owl_range": 0.1}, "owl_range has no effect on this cut; it is for allocation owl"),
        ({"layers": "2:2"}, 'layers="2:2" names no layer'),
        ({"layers": "2:9"}, 'layers="2:9" is outside the model: it has layers 0 to 3'),
        ({"skip": "w_proj"}, "skip= names 'w_proj', which is no projection"),
        ({"skip": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"}, "no projection is left to cut"),
    ],
)
def test_bad_settings_get_one_line(
    cut: Callable[..., SparsifyResult], tiny_model: Models, options: dict[str, Any], message: str
) -> None:
    model = tiny_model()
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(InputError, match=message) as caught:
        cut(model, **options)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_what_yaml_has_made_a_number() -> None:
    with pytest.raises(ValueError, match="write '2:4', in quotes"):
        SparsifyConfig(pattern=124)
    with pytest.raises(ValueError, match="write '10:25', in quotes"):
        SparsifyConfig(layers=625)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{"sparsity": 0.3}, {"sparsity": 0.7}, {"pattern": "2:4"}])
def test_zeros_that_are_there_stay(
    cut: Callable[..., SparsifyResult], tiny_model: Models, method: str, options: dict[str, Any]
) -> None:
    model = tiny_model()
    cut(model, method="wanda", sparsity=0.5)
    masks = zero_masks(model)
    result = cut(model, method=method, **options)
    assert lost_zeros(model, masks) == 0
    assert result.reached >= 0.5
    if "pattern" in options:
        assert all(((linear.weight.view(-1, 4) == 0).sum(1) >= 2).all() for linear in linears(model).values())


@pytest.mark.parametrize(("method", "huge"), [("sparsegpt", 1.0), ("admm", 1e30)])
def test_moments_that_cannot_be_inverted(
    cut: Callable[..., SparsifyResult], tiny_model: Models, method: str, huge: float
) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.mul_(huge)
    with pytest.raises(InputError, match="raise damping="):
        cut(model, method=method, damping=1e-12, seqlen=16, samples=1)
