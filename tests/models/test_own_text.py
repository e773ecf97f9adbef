from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.calibration import own_text
from secateur.calibration.own_text import PIECES

Tiny = Callable[..., PreTrainedModel]


def test_each_token_is_drawn_from_the_models_distribution(
    tiny_model: Tiny, tiny_tokenizer: PreTrainedTokenizerFast, family: str, private_cache: Path
) -> None:
    model, length, seed = tiny_model(family), 12, 5
    pieces = own_text(model, tiny_tokenizer, PIECES, length, seed)
    with torch.no_grad():
        mass = model(pieces).logits.float().softmax(-1).cumsum(-1)
    generator = torch.Generator().manual_seed(seed)
    torch.randint(256, (PIECES, 1), generator=generator)
    for place in range(length - 1):
        draw = torch.rand(PIECES, 1, generator=generator)
        above = mass[:, place].gather(1, pieces[:, place + 1, None])
        below = mass[:, place].gather(1, (pieces[:, place + 1, None] - 1).clamp(min=0)) * (
            pieces[:, place + 1, None] > 0
        )
        assert (above >= draw - 1e-4).all()
        assert (below <= draw + 1e-4).all()


@pytest.mark.slow
def test_windows_are_the_same_text_cut_differently(
    tiny_model: Tiny, tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path
) -> None:
    model = tiny_model()
    short = own_text(model, tiny_tokenizer, 6, 128)
    long = own_text(model, tiny_tokenizer, 3, 256)
    assert torch.equal(short.flatten(), long.flatten())
    assert not torch.equal(short, own_text(model, tiny_tokenizer, 6, 128, seed=1))


def test_text_is_kept_for_the_same_weights_only(
    tiny_model: Tiny, tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    first = own_text(model, tiny_tokenizer, 2, 16)
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", lambda *_, **__: pytest.fail("the text was written again"))
        assert torch.equal(own_text(model, tiny_tokenizer, 2, 16), first)
    assert not torch.equal(own_text(tiny_model(seed=1), tiny_tokenizer, 2, 16), first)


def test_a_token_that_begins_every_text_begins_every_piece(
    tiny_model: Tiny, tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = own_text(tiny_model(), tiny_tokenizer, 4, 16)
    assert not set(plain[:, 0].tolist()) & set(tiny_tokenizer.all_special_ids)
    monkeypatch.setattr(type(tiny_tokenizer), "__call__", lambda self, text: {"input_ids": [self.bos_token_id]})
    begun = own_text(tiny_model(seed=1), tiny_tokenizer, 4, 16)
    assert begun[:, 0].tolist() == [tiny_tokenizer.bos_token_id] * 4
    assert not set(begun[:, 1].tolist()) & set(tiny_tokenizer.all_special_ids)
