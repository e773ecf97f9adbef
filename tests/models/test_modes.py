"""A model that is left in training mode is cut as one in evaluation mode, and comes back as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.models.modes import eval_mode

TinyModel = Callable[..., PreTrainedModel]


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("".join(f"Line {number} of {number * number} about nothing.\n" for number in range(200)))
    return str(file)


def pruned(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    secateur.prune(model, tokenizer, ratio=0.2, calibration=text, samples=2, seqlen=64)


def sparsified(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    secateur.sparsify(model, tokenizer, sparsity=0.5, method="wanda", calibration=text, samples=2, seqlen=64)


@pytest.mark.parametrize("cut", [pruned, sparsified])
def test_dropout_does_not_change_a_cut(
    cut: Callable[..., None], tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    quiet, training = (tiny_model(attention_dropout=0.5) for _ in range(2))
    training.train()
    cut(quiet, tiny_tokenizer, text)
    cut(training, tiny_tokenizer, text)
    assert training.training and training.model.layers[0].self_attn.training
    assert not quiet.training
    for (name, one), (_, other) in zip(quiet.named_parameters(), training.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_each_module_keeps_its_own_mode(tiny_model: TinyModel) -> None:
    model = tiny_model().train()
    model.model.layers[1].eval()
    with pytest.raises(RuntimeError), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert model.training and model.model.layers[0].mlp.training and not model.model.layers[1].mlp.training
