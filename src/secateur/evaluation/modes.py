"""Running a model for measuring."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.models.lora import underlying
from secateur.models.modes import eval_mode


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Without gradients and with dropout off; the model's own mode is restored after."""
    with eval_mode(model), torch.no_grad():
        yield


def weight_of(module: nn.Module) -> Tensor:
    """The weight of an embedding or a linear layer."""
    return cast(Tensor, module.weight)


def input_device(model: PreTrainedModel | PeftModel) -> torch.device:
    """Where token ids go in: with the embeddings, or where Accelerate takes them for as long as they work."""
    embeddings = underlying(model).get_input_embeddings()
    place = weight_of(embeddings).device
    return torch.device(cast(Any, embeddings)._hf_hook.execution_device) if place.type == "meta" else place


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the model's weights; tied ones count once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
