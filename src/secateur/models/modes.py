"""How a model is set while it is measured or cut, and given back as it came."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from torch import nn
from transformers import GenerationConfig, PreTrainedModel

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
Model = TypeVar("Model", bound=nn.Module)
Rest = ParamSpec("Rest")
Result = TypeVar("Result")


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


def in_eval_mode(
    function: Callable[Concatenate[Model, Rest], Result],
) -> Callable[Concatenate[Model, Rest], Result]:
    """A function of a model that runs without dropout and gives the model back in the mode it came in."""

    @wraps(function)
    def inside(model: Model, *arguments: Rest.args, **options: Rest.kwargs) -> Result:
        with eval_mode(model):
            return function(model, *arguments, **options)

    return inside
