"""The whole road on SmolLM2 itself: cut, save, load, measure, generate."""

import copy
import math
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.data import load_corpus, token_windows
from secateur.evaluation import diagnose, perplexity
from secateur.models import count_parameters


@pytest.mark.real
def test_default_cut_of_smollm2(smollm2: tuple[PreTrainedModel, PreTrainedTokenizerFast], tmp_path: Path) -> None:
    uncut, tokenizer = smollm2
    windows = token_windows(tokenizer, load_corpus("pydocs", "test"), 256, limit=4)
    base = perplexity(uncut, windows)
    model = copy.deepcopy(uncut)
    result = secateur.prune(model, tokenizer, ratio=0.1, samples=4, seqlen=128, own_text=0)
    assert abs(result.plan.reached - 0.1) < 0.005
    rise = math.log(perplexity(model, windows) / base)
    assert rise < 0.4
    secateur.save(model, tokenizer, tmp_path / "pruned", extras=result.files())
    again, _ = secateur.load(tmp_path / "pruned", dtype="float32")
    assert count_parameters(again) == result.plan.parameters_after
    prompt = tokenizer("The for statement is used to", return_tensors="pt")
    tokens = again.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert torch.equal(tokens, model.generate(**prompt, max_new_tokens=8, do_sample=False))
    assert not [problem for problem in diagnose(again, windows).problems if problem.severity == "error"]
