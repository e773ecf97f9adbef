"""Weights that a device map has left outside of memory."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.errors import ModelError


@pytest.mark.parametrize("command", [secateur.prune, secateur.sparsify, secateur.search])
def test_weights_left_outside_are_refused_at_once(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, command: Callable[..., object]
) -> None:
    model = tiny_model()
    model.model.layers[2].mlp.to_empty(device="meta")
    with pytest.raises(ModelError, match=r"no room for model\.layers\.2\.mlp.*; use --device cpu"):
        command(model, tiny_tokenizer)
