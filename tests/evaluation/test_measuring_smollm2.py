"""The measurements on SmolLM2 itself."""

import pytest
import torch

from secateur.data import load_corpus, token_windows
from secateur.evaluation import diagnose, generate_samples, perplexity


@pytest.mark.real
def test_smollm2_is_sound_and_its_perplexity_is_the_models_own(smollm2):
    model, tokenizer = smollm2
    windows = token_windows(tokenizer, load_corpus("pydocs", "test"), 128, limit=3)
    with torch.no_grad():
        expected = model(input_ids=windows, labels=windows).loss.exp().item()
    assert perplexity(model, windows, batch_size=2) == pytest.approx(expected, rel=1e-4)
    report = diagnose(model, windows)
    assert report.problems == [] and report.loss < 0.5 * report.uniform_loss
    for prompt, chat in (("The capital of France is", False), ("What is the capital of France?", None)):
        (text,) = generate_samples(model, tokenizer, [prompt], max_new_tokens=8, chat=chat)
        assert "Paris" in text
