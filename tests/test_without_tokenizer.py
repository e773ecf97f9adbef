"""Tokens need no tokenizer, and what does need one says so in one line."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import secateur
from secateur.attention import compare, generate, tune
from secateur.errors import DataError, InputError
from tiny import make_tiny_model

TOKENS = torch.randint(0, 256, (6, 32), generator=torch.Generator().manual_seed(0))
LONG = torch.randint(0, 256, (1, 256), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (secateur.evaluate, {"data": TOKENS, "seqlen": 32, "speed": False}),
        (secateur.prune, {"data": TOKENS, "seqlen": 32}),
        (secateur.sparsify, {"data": TOKENS, "seqlen": 32}),
        (tune, {"data": LONG, "seqlen": 256}),
        (compare, {"data": TOKENS, "seqlen": 32, "topk": 0.5, "repeats": 1}),
    ],
)
def test_tokens_need_none(command: Callable[..., Any], options: dict[str, Any]) -> None:
    command(make_tiny_model(), None, **options)
    with pytest.raises(DataError, match=r"the data holds token 1,0.., and the model has embeddings for 259"):
        command(make_tiny_model(), None, **{**options, "data": options["data"] + 800})


@pytest.mark.parametrize(
    ("command", "options", "purpose"),
    [
        (secateur.evaluate, {}, "to read pydocs with, or tokens as data"),
        (secateur.evaluate, {"tasks": ["hellaswag"]}, "to ask the questions of tasks with"),
        (secateur.prune, {}, "to read pydocs with, or tokens as data"),
        (
            secateur.prune,
            {"data": TOKENS, "seqlen": 32, "own_text": 0.5},
            "which writes text of its own, or pass own_text=0",
        ),
        (secateur.recover, {}, "to read the text with"),
        (generate, {"prompt": "a", "topk": 0.5}, "to read the prompt with"),
        (lambda *given: secateur.export(*given, "model.gguf"), {}, "which is written into the file"),
    ],
)
def test_what_needs_one_says_so(command: Callable[..., Any], options: dict[str, Any], purpose: str) -> None:
    with pytest.raises(InputError, match=f"^tokenizer= is None; give the model's, {purpose}$"):
        command(make_tiny_model(), None, **options)
