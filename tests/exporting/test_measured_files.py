"""A GGUF file's figures in llama.cpp against the model's own in PyTorch, alone and in the report of a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.data import load_corpus
from secateur.errors import ModelError
from secateur.evaluation import EvaluateConfig, perplexity
from secateur.evaluation import llama_cpp as engine
from secateur.evaluation.llama_cpp import LlamaCpp, evaluate_gguf
from secateur.runs import figures
from secateur.runs.recipe import Recipe
from secateur.runs.stages import run_recipe
from uneven import cut_unevenly

pytest.importorskip("xllamacpp")
Small = PreTrainedTokenizerFast
LIKE_FLOAT32 = 2e-3  # llama.cpp keeps keys and values in float16


@pytest.fixture
def exported(tiny_model: Any, small_tokenizer: Small, tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    model = cut_unevenly(tiny_model(vocab_size=300, bos_token_id=0))
    secateur.export(model, small_tokenizer, tmp_path / "model.gguf", dtype="f32")
    return model, tmp_path / "model.gguf"


@pytest.mark.parametrize("stride", [None, 8, 23])
@pytest.mark.parametrize("at_once", [512, 10])
def test_perplexity_is_that_of_the_model(
    exported: tuple[PreTrainedModel, Path], stride: int | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a window goes through in several pieces."""
    monkeypatch.setattr(engine, "TOKENS_AT_ONCE", at_once)
    model, file = exported
    tokens = torch.randint(3, 256, (100,), generator=torch.Generator().manual_seed(1))
    windows = tokens.unfold(0, 24, stride or 24).contiguous()
    with LlamaCpp(file, 24, threads=1) as found:
        measured = found.perplexity(windows, stride=stride)
    assert measured == pytest.approx(perplexity(model, windows, stride=stride), rel=LIKE_FLOAT32)


def test_what_it_writes_on_is_timed(exported: tuple[PreTrainedModel, Path]) -> None:
    with LlamaCpp(exported[1], 64, threads=1) as found:
        timed = list(found.seconds([5] * 40, 3, repeats=2))
    assert len(timed) == 2
    assert all(seconds > 0 for each in timed for seconds in each)


def test_figures_of_a_file(exported: tuple[PreTrainedModel, Path], small_tokenizer: Small, tmp_path: Path) -> None:
    model, file = exported
    (tmp_path / "text.txt").write_text("A short text, and so on. " * 60, encoding="utf-8")
    config = EvaluateConfig(data=[str(tmp_path / "text.txt")], seqlen=32, prompt_tokens=20, new_tokens=4, repeats=1)
    found = evaluate_gguf(file, small_tokenizer, config, name="file", parameters=7, dtype="f32")
    same = secateur.evaluate(model, small_tokenizer, config)
    assert (found.engine, found.parameters, found.size_bytes) == ("llama.cpp", 7, file.stat().st_size)
    assert found.windows == same.windows
    assert found.perplexity == pytest.approx(same.perplexity, rel=LIKE_FLOAT32)
    assert found.prefill_tokens_per_second and found.decode_tokens_per_second


def test_what_llama_cpp_does_not_load_is_named(tmp_path: Path) -> None:
    file = tmp_path / "text.gguf"
    file.write_text("no model", encoding="utf-8")
    with pytest.raises(ModelError, match=r"does not load .*text\.gguf: it is damaged.*; write it anew"):
        LlamaCpp(file)


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False])
def test_the_file_of_a_run_is_a_row_of_its_report(
    tiny_model: Any,
    small_tokenizer: Small,
    tmp_path: Path,
    private_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
) -> None:
    tiny_model(vocab_size=300, bos_token_id=0).save_pretrained(tmp_path / "tiny")
    small_tokenizer.save_pretrained(tmp_path / "tiny")
    text = tmp_path / "text.txt"
    text.write_text(load_corpus("pydocs").text[:5000], encoding="utf-8")
    recipe = Recipe(
        model=str(tmp_path / "tiny"),
        device="cpu",
        prune={"data": str(text), "ratio": 0.1, "windows": 4, "seqlen": 32, "own_text": 0.0},
        export={"dtype": "f32"},
        evaluate={"data": [str(text)], "windows": 4, "seqlen": 32, "prompt_tokens": 8, "new_tokens": 2, "repeats": 1},
        samples={"prompts": ["Once upon"], "max_new_tokens": 2},
    )
    if not installed:
        monkeypatch.setattr(figures, "has_llama_cpp", lambda: False)
    metrics = run_recipe(recipe, "the recipe", tmp_path / "run", command_line="secateur run r.yaml")
    names = [row["name"] for row in metrics["models"]]
    if not installed:
        assert names == ["original", "pruned"]
        return
    assert names == ["original", "pruned", "exported"]
    *_, pruned, row = metrics["models"]
    assert row["perplexity"] == pytest.approx(pruned["perplexity"], rel=LIKE_FLOAT32)
    assert (row["parameters"], row["size_bytes"]) == (
        pruned["parameters"],
        (tmp_path / "run/export/model.gguf").stat().st_size,
    )
    assert row["decode_tokens_per_second"] > 0
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "Exported: f32, measured in llama.cpp" in page and "Size and memory" in page
