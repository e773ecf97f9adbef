"""Models on pretended devices: no operation of a command may mix them."""

from collections.abc import Callable

import pytest
import torch
from pretended import CPU, Mismatch, one_gpu, places, two_gpus
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.attention import TuneConfig, tune
from secateur.sparsity import cutting

Models = Callable[..., PreTrainedModel]

pytestmark = pytest.mark.usefixtures("pretending")


def test_mixing_is_noticed() -> None:
    with pytest.raises(Mismatch):
        torch.ones(2).to("cuda:0") + torch.ones(2).to("cuda:1")
    assert (torch.ones(2).to("cuda:0") + 1).device == torch.device("cuda:0") != CPU


@pytest.mark.parametrize("importance", ["obs", "taylor", "activation", "magnitude"])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_prune(placed: Models, tiny_tokenizer: PreTrainedTokenizerFast, importance: str, allocation: str) -> None:
    model = placed()
    before = places(model)
    options = {"samples": 4, "seqlen": 32, "own_text": 0, "batch_size": 2}
    secateur.prune(model, tiny_tokenizer, ratio=0.2, importance=importance, allocation=allocation, **options)
    after = places(model)  # a half may have left
    assert after == {name: before[name] for name in after}


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "admm"])
def test_sparsify(placed: Models, tiny_tokenizer: PreTrainedTokenizerFast, method: str) -> None:
    options = {} if method == "magnitude" else {"samples": 4, "seqlen": 32, "own_text": 0, "batch_size": 2}
    model = placed()
    before = places(model)
    secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, method=method, **options)
    assert places(model) == before


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "admm"])
@pytest.mark.parametrize("offload", ["cpu", "disk"])
def test_sparsify_with_activations_elsewhere(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, method: str, offload: str
) -> None:
    options = {"samples": 4, "seqlen": 32, "own_text": 0, "batch_size": 2, "offload": offload}
    model = one_gpu(tiny_model("llama", num_hidden_layers=2))
    before = places(model)
    secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, method=method, **options)
    assert places(model) == before


@pytest.mark.parametrize("allocation", ["owl", "fisher"])
def test_sparsify_by_allocation(placed: Models, tiny_tokenizer: PreTrainedTokenizerFast, allocation: str) -> None:
    options = {"samples": 4, "seqlen": 32, "own_text": 0, "batch_size": 2}
    model = placed()
    before = places(model)
    secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, method="wanda", allocation=allocation, **options)
    assert places(model) == before


@pytest.mark.slow
@pytest.mark.parametrize("layer_importance", ["removal", "activation", "similarity"])
def test_layer_importance(placed: Models, tiny_tokenizer: PreTrainedTokenizerFast, layer_importance: str) -> None:
    options = {"samples": 4, "seqlen": 32, "own_text": 0, "batch_size": 2, "layer_importance_samples": 2}
    model = placed()
    before = places(model)
    secateur.prune(model, tiny_tokenizer, ratio=0.2, allocation="inverse", layer_importance=layer_importance, **options)
    assert places(model) == before


def test_evaluate(placed: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    result = secateur.evaluate(placed(), tiny_tokenizer, windows=2, seqlen=32, speed=False)
    assert result.perplexity and all(value > 1 for value in result.perplexity.values())


def test_search(placed: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    options = {"samples": 4, "seqlen": 32, "own_text": 0, "batch_size": 2}
    model = placed()
    before = places(model)
    secateur.search(model, tiny_tokenizer, ratio=0.2, rounds=1, measured=2, **options)
    assert places(model) == before


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "admm"])
@pytest.mark.parametrize("offload", ["none", "cpu", "disk"])
def test_sparsify_layer_by_layer(
    tiny_model: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    offload: str,
) -> None:
    monkeypatch.setattr(cutting, "resolve_device", lambda _: torch.device("cuda:0"))
    options = {"samples": 4, "seqlen": 32, "own_text": 0, "batch_size": 2, "offload": offload}
    model = tiny_model(num_hidden_layers=2)
    before = places(model)
    secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, method=method, layer_by_layer=True, **options)
    assert places(model) == before


def test_attention_tune(placed: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    profile = tune(placed(), tiny_tokenizer, TuneConfig(samples=1, seqlen=256, query_block=16, key_block=16))
    assert profile.layers


def test_diagnose(placed: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert secateur.diagnose(placed(), tiny_tokenizer).tensors


def test_every_family(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, family: str) -> None:
    options = {"samples": 4, "seqlen": 32, "own_text": 0, "batch_size": 2}
    model = two_gpus(tiny_model(family, num_hidden_layers=2))
    before = places(model)
    secateur.prune(model, tiny_tokenizer, ratio=0.2, **options)
    secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, **options)
    assert places(model) == before
    result = secateur.evaluate(model, tiny_tokenizer, windows=2, seqlen=32, speed=False)
    assert result.perplexity and all(value > 1 for value in result.perplexity.values())


def test_parallel_blocks(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """What a layer is given waits where the streams do."""
    options = {"samples": 4, "seqlen": 32, "own_text": 0, "batch_size": 2, "offload": "disk"}
    model = two_gpus(tiny_model("cohere", num_hidden_layers=2))
    before = places(model)
    secateur.prune(model, tiny_tokenizer, ratio=0.2, keep_halves=True, **options)
    secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, method="admm", **options)
    assert places(model) == before
