"""Tuning and use on SmolLM2 itself."""

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.attention import against_dense, apply, heldout_errors, tune
from secateur.data import load_corpus, token_windows


@pytest.mark.real
def test_half_of_the_blocks_at_a_small_error(
    smollm2: tuple[PreTrainedModel, PreTrainedTokenizerFast], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = smollm2
    profile = tune(model, tokenizer, data="pydocs", samples=2, seqlen=2048, layers="0:8")
    assert sorted(profile.layers) == list(range(8))
    others = token_windows(tokenizer, load_corpus("pydocs", "test"), 2048, limit=1)
    errors = heldout_errors(model, others, profile)
    assert errors.sparsity.mean() > 0.3
    assert errors.error.mean() < 0.09
    # Four more readings, whose times nothing is asserted of.
    monkeypatch.setattr(against_dense, "first_token_seconds", lambda *_: 1.0)
    comparison = against_dense.compare_windows(model, others, lambda: apply(model, profile), repeats=1)
    assert comparison.logits_cosine > 0.99
    assert comparison.sparse_perplexity < 1.02 * comparison.perplexity
    assert comparison.sparsity > 0.3
