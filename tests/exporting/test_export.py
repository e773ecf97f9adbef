"""Tiny models of every family, even and uneven, in llama.cpp and in Transformers: the same probabilities."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from exporting_helpers import LlamaCpp, log_probabilities
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.errors import InputError, ModelError, OptionError
from secateur.exporting.projections import interleaved
from secateur.models import count_parameters
from uneven import cut_unevenly

PROMPT = [3, 70, 80, 90, 100, 5, 6, 7, 200, 12, 13, 14]
F16_ERROR = 0.01
Small = PreTrainedTokenizerFast


@pytest.fixture
def model(tiny_model: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
    return lambda family="llama", **settings: tiny_model(family, **{"vocab_size": 300, "bos_token_id": 0, **settings})


def differences(file: Path, model: PreTrainedModel, prompt: list[int] = PROMPT) -> float:
    """The largest difference of a log-probability between llama.cpp and Transformers."""
    expected = log_probabilities(model, prompt)
    found = LlamaCpp(file).next_log_probabilities(prompt, len(expected))
    assert len(found) == len(expected)
    return max(abs(float(expected[token]) - value) for token, value in found.items())


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
def test_every_family_gives_the_same_probabilities(
    family: str, uneven: bool, tied: bool, model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    # Qwen2's own graph wants heads that add up to the hidden size.
    tiny = model(family, tie_word_embeddings=tied, **({"num_attention_heads": 4} if family == "qwen2" else {}))
    if uneven:
        cut_unevenly(tiny)
    result = secateur.export(tiny, small_tokenizer, tmp_path / "model.gguf")
    assert differences(tmp_path / "model.gguf", tiny) < F16_ERROR
    filled = uneven and family == "qwen3" and not tied
    expected = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}[family]
    if uneven and not filled:
        expected = "openelm" if family == "qwen3" else "deci"
    assert result.architecture == expected
    assert result.per_layer == (uneven and not filled)
    assert result.parameters == count_parameters(tiny)
    assert (result.parameters_in_file > result.parameters) == filled
    assert result.bytes == (tmp_path / "model.gguf").stat().st_size


@pytest.mark.slow
def test_heads_that_do_not_add_up_to_the_hidden_size(
    model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    tiny = cut_unevenly(model("qwen2"), [(3, 64)] * 4)
    assert secateur.export(tiny, small_tokenizer, tmp_path / "model.gguf").architecture == "deci"
    assert differences(tmp_path / "model.gguf", tiny) < F16_ERROR


def test_biases_everywhere(model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path) -> None:
    tiny = cut_unevenly(model("llama", attention_bias=True, mlp_bias=True), [(3, 64)] * 4)
    secateur.export(tiny, small_tokenizer, tmp_path / "model.gguf")
    assert differences(tmp_path / "model.gguf", tiny) < F16_ERROR


ROPES: dict[str, dict[str, Any]] = {
    "theta": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize(("family", "uneven"), [("llama", False), ("llama", True), ("qwen3", False), ("qwen3", True)])
def test_rotary_positions(
    kind: str,
    family: str,
    uneven: bool,
    model: Callable[..., PreTrainedModel],
    small_tokenizer: Small,
    tmp_path: Path,
) -> None:
    tiny = model(family, rope_parameters={"rope_theta": 10000.0, **ROPES[kind]})
    if uneven:
        cut_unevenly(tiny)
    if kind == "llama3" and family == "qwen3":
        with pytest.raises(ModelError, match="no rotary positions of the type 'llama3'"):
            secateur.export(tiny, small_tokenizer, tmp_path / "model.gguf")
        return
    secateur.export(tiny, small_tokenizer, tmp_path / "model.gguf")
    prompt = [(7 * position) % 290 + 2 for position in range(120)]
    assert differences(tmp_path / "model.gguf", tiny, prompt) < F16_ERROR


@pytest.mark.parametrize(("dtype", "allowed"), [("bf16", 0.1), ("q8_0", 0.15)])
def test_number_formats(
    dtype: str, allowed: float, model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    tiny = cut_unevenly(model())
    result = secateur.export(tiny, small_tokenizer, tmp_path / "model.gguf", dtype=dtype)
    assert differences(tmp_path / "model.gguf", tiny) < allowed
    # Rows of 33 and 40 weights do not fill blocks of 32.
    expected = {"bf16": {"f32": 9, "bf16": 29}, "q8_0": {"f32": 9, "q8_0": 27, "f16": 2}}[dtype]
    assert result.tensors == expected


def test_interleaving_pairs_what_is_rotated_together() -> None:
    rows = torch.arange(8.0)[:, None]
    assert interleaved(rows, heads=2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_more_embeddings_than_tokens(
    model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    tiny = model(vocab_size=320)
    secateur.export(tiny, small_tokenizer, tmp_path / "model.gguf")
    assert differences(tmp_path / "model.gguf", tiny) < F16_ERROR


def test_an_added_token_without_an_embedding(
    model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    tokenizer = copy.deepcopy(small_tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tiny = model()
    secateur.export(tiny, tokenizer, tmp_path / "model.gguf")
    assert differences(tmp_path / "model.gguf", tiny) < F16_ERROR
    with pytest.raises(ModelError, match="300 tokens and the model 290 embeddings"):
        secateur.export(model(vocab_size=290), small_tokenizer, tmp_path / "other.gguf")


def test_a_sliding_window_shortens_the_context(
    model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    secateur.export(model("mistral", sliding_window=32), small_tokenizer, tmp_path / "model.gguf")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["llama.context_length"].contents() == 32


def test_chat_template_and_end_token_are_in_the_file(
    model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    tokenizer = copy.deepcopy(small_tokenizer)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}<eos>{% endfor %}"
    secateur.export(model(), tokenizer, tmp_path / "model.gguf")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    tokenizer.chat_template = {"default": "plain", "tools": "with tools"}
    secateur.export(model(), tokenizer, tmp_path / "two.gguf")
    fields = gguf.GGUFReader(tmp_path / "two.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == "plain"
    assert fields["tokenizer.chat_template.tools"].contents() == "with tools"


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("llama", {"hidden_act": "gelu"}, "this model has gelu"),
        ("qwen3", {"attention_bias": True}, "qwen3 has no attention_bias"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "no rotary positions of the type 'dynamic'",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, **ROPES["yarn"], "attention_factor": 2.0}},
            "attention factor of 1",
        ),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused(
    family: str,
    settings: dict[str, Any],
    reason: str,
    model: Callable[..., PreTrainedModel],
    small_tokenizer: Small,
    tmp_path: Path,
) -> None:
    with pytest.raises(ModelError, match=reason):
        secateur.export(model(family, **settings), small_tokenizer, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_bad_weights_and_options(model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    tiny = model()
    with pytest.raises(InputError, match="dtype='q4': there is no such number format; did you mean q4_0"):
        secateur.export(tiny, small_tokenizer, file, dtype="q4")
    with pytest.raises(OptionError, match=r"model\.bin does not end in \.gguf"):
        secateur.export(tiny, small_tokenizer, tmp_path / "model.bin")
    adapted = get_peft_model(model(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(InputError, match="merge it first"):
        secateur.export(adapted, small_tokenizer, file)
    with torch.no_grad():
        next(tiny.parameters())[0, 0] = 70000.0
    with pytest.raises(ModelError, match="beyond float16's 65504; export with dtype bf16"):
        secateur.export(tiny, small_tokenizer, file)
    with torch.no_grad():
        next(tiny.parameters())[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        secateur.export(tiny, small_tokenizer, file)
    assert not list(tmp_path.iterdir())


def test_yarn_with_bounds_that_llama_cpp_does_not_take(
    model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    tiny = model(rope_parameters={"rope_theta": 10000.0, **ROPES["yarn"], "beta_slow": 2.0})
    with pytest.raises(ModelError, match="yarn with beta_fast 32 and beta_slow 1 only"):
        secateur.export(tiny, small_tokenizer, tmp_path / "model.gguf")


def test_a_file_named_mistral_is_read_by_transformers_alone(
    model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    secateur.export(model(), small_tokenizer, tmp_path / "mistral.gguf")
    assert gguf.GGUFReader(tmp_path / "mistral.gguf").fields["general.name"].contents() == "Mistral"
    assert AutoConfig.from_pretrained(tmp_path, gguf_file="mistral.gguf").model_type == "llama"


def test_the_result_as_figures(model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path) -> None:
    figures = secateur.export(model(), small_tokenizer, tmp_path / "model.gguf").to_dict()
    assert json.loads(json.dumps(figures)) == figures
    assert figures["pre_tokenizer"] == "gpt-2"
