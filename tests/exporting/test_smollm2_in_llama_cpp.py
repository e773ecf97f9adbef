"""SmolLM2 in llama.cpp: original, cut even and uneven, recovered; the same greedy tokens and perplexity."""

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from exporting_helpers import LlamaCpp
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.data import load_corpus, token_windows
from secateur.evaluation import perplexity
from secateur.evaluation.llama_cpp import LlamaCpp as Engine

PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "def fibonacci(n):",
    "Once upon a time there was",
    "The for statement is used to iterate over",
)
NEW_TOKENS = 24
WINDOW = 96
ENDS = ("<|endoftext|>", "<|im_end|>")  # which llama.cpp is asked not to write
# Nats. llama.cpp multiplies in float16: SmolLM2's own log-probabilities there differ by up to 0.03.
UNDECIDED = 0.05
KINDS = ("original", "even", "uneven", "recovered")
# Re-fitted, so that the model still writes sentences: of one that does not (20 % cut, no re-fit, hidden states of
# 13,700) rounding to float16 moves log-probabilities by several nats, and to bfloat16 by more.
CUT = {"ratio": 0.1, "samples": 4, "seqlen": 128, "own_text": 0, "importance": "activation", "keep_halves": True}


@dataclass(frozen=True)
class Exported:
    """A model in float32 and its file."""

    model: PreTrainedModel
    file: Path
    architecture: str


def exports(original: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> dict[str, Exported]:
    even, uneven = copy.deepcopy(original), copy.deepcopy(original)
    secateur.prune(even, tokenizer, even=True, **CUT)
    secateur.prune(uneven, tokenizer, **CUT)
    recovered = copy.deepcopy(uneven)
    settings = {"samples": 8, "seqlen": 64, "val_size": 0, "max_minutes": 1, "batch_size": 4}
    secateur.recover(recovered, tokenizer, directory / "recovered", merge=True, **settings)
    recovered, _ = secateur.load(directory / "recovered", dtype="float32", device="cpu")
    exports = {}
    for kind, model in zip(KINDS, (original, even, uneven, recovered), strict=True):
        file = directory / f"{kind}.gguf"
        exports[kind] = Exported(model, file, secateur.export(model, tokenizer, file).architecture)
    return exports


@pytest.mark.real
def test_same_tokens_and_perplexity(smollm2: tuple[PreTrainedModel, PreTrainedTokenizerFast], tmp_path: Path) -> None:
    tokenizer = smollm2[1]
    ends = tokenizer.convert_tokens_to_ids(list(ENDS))
    windows = token_windows(tokenizer, load_corpus("pydocs", "test"), WINDOW, limit=2)
    for kind, exported in exports(*smollm2, tmp_path).items():
        assert exported.architecture == ("deci" if kind in ("uneven", "recovered") else "llama")
        llama_cpp = LlamaCpp(exported.file)
        for prompt in PROMPTS:
            tokens = tokenizer(prompt).input_ids
            assert llama_cpp.tokens(prompt) == tokens
            require_same_way(exported.model, tokens, llama_cpp.greedy(tokens, NEW_TOKENS), ends)
        with Engine(exported.file, WINDOW, threads=1) as engine:
            assert engine.perplexity(windows) == pytest.approx(perplexity(exported.model, windows), rel=0.01), kind


@torch.no_grad()
def require_same_way(model: PreTrainedModel, prompt: list[int], written: list[int], ends: list[int]) -> None:
    """Each token that llama.cpp wrote is the most probable one in Transformers, unless two are as good as equal.

    Both write on where they would end.
    """
    assert len(written) == NEW_TOKENS
    logits = model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
    logits[:, ends] = -torch.inf
    chosen = logits.gather(1, torch.tensor(written)[:, None])[:, 0]
    behind = logits.max(-1).values - chosen
    assert float(behind.max()) < UNDECIDED
