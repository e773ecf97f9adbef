"""GGUF files of families with graphs of their own as input: log-probabilities are those of llama.cpp."""

from pathlib import Path

import pytest
import torch
from exporting_helpers import LlamaCpp, log_probabilities
from family_models import FAMILIES, PROMPT, make_family
from gguf_files import edited
from transformers import PreTrainedTokenizerFast

import secateur
from secateur.errors import ModelError
from secateur.models import count_parameters, layer_widths
from secateur.models.loading import load_settings

F16_ERROR = 0.01
Small = PreTrainedTokenizerFast
OWN = "secateur.feed_forward_length"


@pytest.mark.parametrize("widths", ["uncut", "uneven"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_is_read_as_llama_cpp_runs_it(family: str, widths: str, small_tokenizer: Small, tmp_path: Path) -> None:
    model, file = make_family(family, widths), tmp_path / "model.gguf"
    result = secateur.export(model, small_tokenizer, file)
    again, tokenizer = secateur.load(file, dtype="float32", device="cpu")
    # `deci` is read as a Llama, whatever it was before.
    assert again.config.model_type.removeprefix("secateur_") == ("llama" if result.architecture == "deci" else family)
    assert tokenizer("Some text, 12.").input_ids == small_tokenizer("Some text, 12.").input_ids
    expected = log_probabilities(again, PROMPT)
    found = LlamaCpp(file).next_log_probabilities(PROMPT, len(expected))
    assert max(abs(float(expected[token]) - value) for token, value in found.items()) < F16_ERROR
    torch.testing.assert_close(expected, log_probabilities(model, PROMPT), atol=F16_ERROR, rtol=0)
    # What was filled up with zeros for llama.cpp's sake is not read back.
    assert layer_widths(again) == layer_widths(model)
    if result.architecture != "deci" and again.config.tie_word_embeddings == model.config.tie_word_embeddings:
        assert count_parameters(again) == count_parameters(model)
    secateur.save(again, tokenizer, tmp_path / "saved")
    saved, _ = secateur.load(tmp_path / "saved", dtype="float32", device="cpu")
    assert torch.equal(log_probabilities(saved, PROMPT), expected)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("gemma3_text", "attention.sliding_window", 0),
        ("gemma3_text", "final_logit_softcapping", 30.0),
        ("gemma2", "attn_logit_softcapping", float("nan")),
        ("granite", "logit_scale", "one"),
        ("smollm3", "attention.scale", 0.1),
        ("glm4", "rope.scaling.type", "yarn"),
        ("starcoder2", "rope.dimension_count", 4),
        ("olmo2", "attention.sliding_window_pattern", 4),
        ("qwen3_5_text", "ssm.inner_size", 32),
        ("qwen3_5_text", "rope.dimension_sections", [0, 2, 0, 0]),
        ("qwen3_5_text", "attention.recurrent_layers", [True, False, False, True]),
        ("seed_oss", "residual_scale", 0.5),
        ("gpt_neox", "use_parallel_residual", 1),
        ("cohere", "logit_scale", float("inf")),
    ],
)
def test_keys_that_are_not_carried_are_named(
    family: str, key: str, value: object, small_tokenizer: Small, tmp_path: Path
) -> None:
    result = secateur.export(make_family(family), small_tokenizer, tmp_path / "model.gguf")
    file = edited(tmp_path / "model.gguf", {f"{result.architecture}.{key}": value})
    with pytest.raises(ModelError, match="type yarn" if "type" in key else f"{key} "):
        load_settings(file)


@pytest.mark.parametrize("family", ["olmo2", "gpt_neox", "glm4", "qwen3_5_text"])
def test_what_was_filled_up_computes_the_same_when_it_is_read_back(
    family: str, small_tokenizer: Small, tmp_path: Path
) -> None:
    settings = {"rms_norm_eps": 0.1, "head_dim": 8} if family == "olmo2" else {}
    model = make_family(family, "uneven", **settings)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
    secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
    again, _ = secateur.load(tmp_path / "model.gguf", dtype="float32", device="cpu")
    assert layer_widths(again) == layer_widths(model) and len(set(layer_widths(model))) > 1
    error = 2e-3 if family == "olmo2" else 1e-5  # a factor that is none of float16's numbers
    torch.testing.assert_close(log_probabilities(again, PROMPT), log_probabilities(model, PROMPT), atol=error, rtol=0)


@pytest.fixture(scope="module")
def filled_up(small_tokenizer: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("filled") / "model.gguf"
    secateur.export(make_family("smollm3", "uneven"), small_tokenizer, file)
    return file


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([64, 64, 64], r"secateur\.feed_forward_length is \[64, 64, 64\] and must be a list of 4 numbers"),
        (64, "and must be a list of 4 numbers"),
        ([64, 64, 64, 97], r"say .* of layer 3, of which the file has"),
        ([0, 64, 64, 64], r"say .* of layer 0, of which the file has"),
        (["x"] * 4, r"say .* of layer 0, of which the file has"),
        ([8, 8, 8, 8], r"it is filled up with zeros, and blk\.0\.ffn_gate\.weight has other numbers in their place"),
    ],
)
def test_own_widths_that_are_none_of_the_files(value: object, message: str, filled_up: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        secateur.load(edited(filled_up, {OWN: value}), dtype="float32", device="cpu")
    assert "\n" not in str(caught.value)
