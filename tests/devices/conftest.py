"""Pretended devices for a test, and tiny models on them."""

from collections.abc import Callable, Iterator

import pytest
import torch
from accelerate import Accelerator
from pretended import Devices, one_gpu, pretend, pretended, two_gpus
from torch import nn
from torch.utils import checkpoint
from transformers import PreTrainedModel

from secateur.models import memory

Models = Callable[..., PreTrainedModel]
LAYOUTS = {"one GPU": one_gpu, "two GPUs": two_gpus}


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


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=LAYOUTS)
def placed(request: pytest.FixtureRequest, tied: bool, tiny_model: Models) -> Models:
    """A model of two layers; on two GPUs one on each."""
    return lambda **sizes: LAYOUTS[request.param](tiny_model(tie_word_embeddings=tied, num_hidden_layers=2, **sizes))
