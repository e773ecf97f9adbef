"""Pretended devices for a test, and tiny models on them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pretended import Devices, one_gpu, pretend, pretended, two_gpus
from torch import nn
from torch.utils import checkpoint
from transformers import PreTrainedModel

import secateur
from secateur.models import memory, save
from tiny import make_tiny_model, make_tiny_tokenizer

Models = Callable[..., PreTrainedModel]
LAYOUTS = {"one GPU": (one_gpu, True), "two GPUs, tied": (two_gpus, True), "two GPUs, untied": (two_gpus, False)}


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors carry devices, in the backward pass too, and new parameters are where their data is."""
    parameter, engine = nn.Parameter.__new__, torch.autograd._engine_run_backward

    def made(cls: type, data: torch.Tensor | None = None, requires_grad: bool = True) -> nn.Parameter:
        new = parameter(cls, data, requires_grad)
        return new if data is None else pretend(new, pretended(data))  # type: ignore[return-value]

    def run_backward(*arguments: object, **options: object) -> object:
        with Devices(backward=True):
            return engine(*arguments, **options)

    monkeypatch.setattr(nn.Parameter, "__new__", made)
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", run_backward)
    # The engine knows nothing of the devices of what it has saved.
    monkeypatch.setitem(checkpoint._allowed_determinism_checks_to_fns, "default", lambda tensor: None)
    monkeypatch.setattr(memory, "_peak_of_gpus", lambda gpus: memory._peak_of_process())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**40, 2**40))
    monkeypatch.setattr(Accelerator, "device", property(lambda self: torch.device("cuda:0")))
    with Devices():
        yield


@pytest.fixture(params=LAYOUTS)
def placed(request: pytest.FixtureRequest, tiny_model: Models) -> Models:
    """A model of two layers; on two GPUs one on each."""
    layout, tied = LAYOUTS[request.param]
    return lambda: layout(tiny_model(tie_word_embeddings=tied, num_hidden_layers=2))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model, a sparse one, an adapter of both, a text."""
    place, tokenizer = tmp_path_factory.mktemp("made"), make_tiny_tokenizer([("1", "2")])
    sizes = {"num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    text = place / "text.txt"
    text.write_text(" ".join(map(str, range(400))), encoding="utf-8")
    for name in ("MODEL", "SPARSE"):
        model = make_tiny_model(**sizes)
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(0.02)  # a loss no higher than that of guessing
        if name == "SPARSE":
            secateur.sparsify(model, tokenizer, sparsity=0.5, method="magnitude")
        save(model, tokenizer, place / name)
    quick: dict[str, Any] = {"data": str(text), "samples": 2, "seqlen": 32, "val_size": 0}
    secateur.recover(make_tiny_model(**sizes), tokenizer, place / "ADAPTER", method="lora", **quick)
    return {"TEXT": str(text), **{name: str(place / name) for name in ("MODEL", "SPARSE", "ADAPTER")}}
