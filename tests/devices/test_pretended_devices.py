"""Models on pretended devices: no operation of a command may mix them."""

from collections.abc import Callable, Iterator

import pytest
import torch
from pretended import CPU, Devices, Mismatch, pretend, pretended, spread
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.attention import TuneConfig, tune
from secateur.calibration import losses, sensitivity
from secateur.models import memory
from secateur.sparsity import cutting

Models = Callable[..., PreTrainedModel]
TEXT = "calibration.txt"


@pytest.fixture(autouse=True)
def _pretend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """New parameters are where their data is, modules move their tags, `--device` is the first GPU."""
    parameter = nn.Parameter.__new__

    def made(cls: type, data: torch.Tensor | None = None, requires_grad: bool = True) -> nn.Parameter:
        new = parameter(cls, data, requires_grad)
        return new if data is None else pretend(new, pretended(data))  # type: ignore[return-value]

    def moved(module: nn.Module, *arguments: object, **options: object) -> nn.Module:
        for place in arguments:
            if isinstance(place, str | torch.device):
                for tensor in [*module.parameters(), *module.buffers()]:
                    pretend(tensor, place)
        return module

    monkeypatch.setattr(nn.Parameter, "__new__", made)
    monkeypatch.setattr(nn.Module, "to", moved)
    # What runs in the backward pass is outside the mode.
    for module in (losses, sensitivity):
        monkeypatch.setattr(module, "checkpoint", lambda run, *given, use_reentrant, **options: run(*given, **options))
    monkeypatch.setattr(memory, "_peak_of_gpus", lambda gpus: memory._peak_of_process())
    with Devices():
        yield


def one_gpu(model: PreTrainedModel) -> PreTrainedModel:
    for tensor in [*model.parameters(), *model.buffers()]:
        pretend(tensor, "cuda:0")
    return model


def two_gpus(model: PreTrainedModel) -> PreTrainedModel:
    """The embedding and the first half of the layers on one, the rest, the norm and the head on the other."""
    layers = model.config.num_hidden_layers
    places = {f"model.layers.{index}": f"cuda:{int(index >= layers // 2)}" for index in range(layers)}
    head = "cuda:0" if model.config.tie_word_embeddings else "cuda:1"
    ends = {"model.norm": "cuda:1", "model.rotary_emb": "cuda:0", "lm_head": head}
    return spread(model, {"model.embed_tokens": "cuda:0", **places, **ends})


def places(model: PreTrainedModel) -> dict[str, torch.device]:
    return {name: pretended(weight) for name, weight in model.named_parameters()}


LAYOUTS = {"one GPU": one_gpu, "two GPUs": two_gpus}


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=LAYOUTS)
def placed(request: pytest.FixtureRequest, tied: bool, tiny_model: Models) -> Models:
    return lambda: LAYOUTS[request.param](tiny_model(tie_word_embeddings=tied))


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
    assert places(model) == before


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
    model = one_gpu(tiny_model("llama"))
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
    model = tiny_model()
    before = places(model)
    secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, method=method, layer_by_layer=True, **options)
    assert places(model) == before


def test_attention_tune(placed: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    profile = tune(placed(), tiny_tokenizer, TuneConfig(samples=1, seqlen=256, query_block=16, key_block=16))
    assert profile.layers


def test_diagnose(placed: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert secateur.diagnose(placed(), tiny_tokenizer).tensors
