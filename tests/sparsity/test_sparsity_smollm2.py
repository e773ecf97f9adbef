"""Weight sparsity on SmolLM2 itself: the methods in their order, zeros through a training and the disk."""

import copy
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.data import load_corpus, token_windows
from secateur.evaluation import diagnose, perplexity
from secateur.models.masks import lost_zeros, zero_masks

# Some layers are enough to tell the methods apart: perplexities 20.2 (dense), 20.9, 23.1 and 25.0.
LAYERS = "12:18"


@pytest.mark.real
def test_half_of_smollm2_s_weights(smollm2: tuple[PreTrainedModel, PreTrainedTokenizerFast], tmp_path: Path) -> None:
    dense, tokenizer = smollm2
    windows = token_windows(tokenizer, load_corpus("pydocs", "test"), 256, limit=2)
    ppl = {"dense": perplexity(dense, windows)}
    sparse = dense
    for method in ("magnitude", "wanda", "admm"):
        sparse = copy.deepcopy(dense)
        result = secateur.sparsify(sparse, tokenizer, method=method, samples=4, seqlen=256, layers=LAYERS)
        assert result.reached == 0.5
        ppl[method] = perplexity(sparse, windows)
    assert ppl["dense"] < ppl["admm"] < ppl["wanda"] < ppl["magnitude"]
    masks = zero_masks(sparse)
    trained = secateur.recover(
        sparse, tokenizer, tmp_path / "trained", teacher=dense, samples=4, seqlen=128, batch_size=2, val_size=0
    ).model
    assert lost_zeros(trained, masks) == 0
    again, _ = secateur.load(tmp_path / "trained", dtype="float32")
    assert lost_zeros(again, masks) == 0
    assert perplexity(again, windows) < ppl["wanda"]
    assert not [problem for problem in diagnose(again, windows[:1]).problems if problem.severity == "error"]
