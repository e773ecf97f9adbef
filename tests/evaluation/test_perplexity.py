"""Perplexity against a plain cross entropy over the full logits."""

import math
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from secateur.calibration import token_losses
from secateur.errors import InputError
from secateur.evaluation import perplexity

SEQLEN = 24
MODULE = sys.modules[perplexity.__module__]


def overlapping_windows(tokens: torch.Tensor, stride: int) -> torch.Tensor:
    return tokens.unfold(0, SEQLEN, stride).contiguous()


def token_by_token(model, windows, stride):
    """Mean loss over the tokens that each window is the first to see with something before them."""
    losses, seen = [], 0
    for index, window in enumerate(windows):
        logits = model(input_ids=window[None]).logits[0].double()
        for position in range(1, SEQLEN):
            if index * stride + position > seen:
                losses.append(functional.cross_entropy(logits[position - 1], window[position]))
        seen = index * stride + SEQLEN - 1
    return math.exp(torch.stack(losses).mean())


@pytest.fixture
def tokens():
    return torch.randint(0, 256, (180,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stride", [7, 12, 23])
def test_overlapping_windows_score_each_token_once(tiny_model, tokens, stride):
    model = tiny_model()
    windows = overlapping_windows(tokens, stride)
    with torch.no_grad():
        expected = token_by_token(model, windows, stride)
    assert perplexity(model, windows, stride=stride, batch_size=3) == pytest.approx(expected, rel=1e-5)


def test_windows_side_by_side_match_the_models_own_loss(tiny_model, tokens, family):
    model = tiny_model(family)
    windows = overlapping_windows(tokens, SEQLEN)
    with torch.no_grad():
        expected = model(input_ids=windows, labels=windows).loss.exp().item()
    assert perplexity(model, windows, batch_size=4) == pytest.approx(expected, rel=1e-5)
    assert perplexity(model, windows, stride=SEQLEN) == pytest.approx(expected, rel=1e-5)


def test_does_not_depend_on_the_batch_size_and_keeps_the_models_mode(tiny_model, tokens):
    model = tiny_model().train()
    windows = overlapping_windows(tokens, 12)
    single = perplexity(model, windows, stride=12, batch_size=1)
    assert perplexity(model, windows, stride=12, batch_size=50) == pytest.approx(single, rel=1e-5)
    assert model.training


def test_an_unmerged_adapter_is_measured_as_if_merged(tiny_model, tokens):
    adapted = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    windows = overlapping_windows(tokens, SEQLEN)
    unmerged = perplexity(adapted, windows)
    assert unmerged != pytest.approx(perplexity(tiny_model(), windows), rel=1e-3)
    assert perplexity(adapted.merge_and_unload(), windows) == pytest.approx(unmerged, rel=1e-4)


def test_a_batch_that_does_not_fit_is_halved(tiny_model, tokens, monkeypatch):
    model = tiny_model()
    windows = overlapping_windows(tokens, 12)
    expected = perplexity(model, windows, stride=12)
    sizes = []

    def small_memory(model, hidden, labels):
        if len(labels) > 2:
            raise torch.OutOfMemoryError
        sizes.append(len(labels))
        return token_losses(model, hidden, labels)

    monkeypatch.setattr(MODULE, "token_losses", small_memory)
    assert perplexity(model, windows, stride=12, batch_size=9) == pytest.approx(expected, rel=1e-5)
    assert sum(sizes) == len(windows) and max(sizes) == 2


def test_a_window_that_does_not_fit_is_an_error(tiny_model, tokens, monkeypatch):
    def no_memory(model, hidden, labels):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(MODULE, "token_losses", no_memory)
    with pytest.raises(InputError, match="24 tokens does not fit in the GPU's memory; choose a smaller seqlen"):
        perplexity(tiny_model(), overlapping_windows(tokens, SEQLEN))


@pytest.mark.parametrize("shape", [(4,), (0, 8), (3, 1)])
def test_refuses_what_are_no_windows(tiny_model, shape):
    with pytest.raises(InputError, match=r"\(windows, seqlen\)"):
        perplexity(tiny_model(), torch.zeros(shape, dtype=torch.int64))


def test_refuses_a_stride_that_skips_text(tiny_model, tokens):
    with pytest.raises(InputError, match="between 1 and the windows' 24 tokens; it is 25"):
        perplexity(tiny_model(), overlapping_windows(tokens, 25), stride=25)


def test_a_broken_model_has_no_finite_perplexity(tiny_model, tokens):
    model = tiny_model()
    model.model.norm.weight.data.mul_(1e6)
    assert perplexity(model, overlapping_windows(tokens, SEQLEN)) == math.inf
    model.model.norm.weight.data.fill_(math.nan)
    assert math.isnan(perplexity(model, overlapping_windows(tokens, SEQLEN)))
