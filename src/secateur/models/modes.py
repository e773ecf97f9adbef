"""How a model is set while it is measured or cut, and given back as it came."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from torch import nn
from transformers import GenerationConfig, PreTrainedModel

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
Function = TypeVar("Function", bound=Callable[..., Any])


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout. After, every module is in the mode it was in; new ones are in the model's."""
    whole, before = model.training, {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module in model.modules():
            module.training = before.get(module, whole)


@contextmanager
def own_settings_aside(model: PreTrainedModel) -> Iterator[None]:
    """Without what a model's `generation_config.json` asks for: `generate` adds its beams and penalties to its own."""
    before = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(before, name) for name in TOKENS})
    try:
        yield
    finally:
        model.generation_config = before


def cache_name(model: PreTrainedModel) -> str:
    """What the model's `forward` calls its cache: `cache`, before Transformers 5.23 `past_key_values`."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def in_eval_mode(function: Function) -> Function:
    """A function of a model that runs without dropout and gives the model back in the mode it came in."""

    @wraps(function)
    def inside(model: nn.Module, *arguments: Any, **options: Any) -> Any:
        with eval_mode(model):
            return function(model, *arguments, **options)

    return cast(Function, inside)
