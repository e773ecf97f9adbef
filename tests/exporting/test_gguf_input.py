"""GGUF files as input: log-probabilities are those of llama.cpp, and what cannot be carried is refused by name."""

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from exporting_helpers import LlamaCpp, byte_tokenizer, log_probabilities
from gguf_files import edited
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.errors import ModelError
from secateur.models.loading import load_settings
from secateur.models.widths import layer_widths
from uneven import cut_unevenly

PROMPT = [(7 * position) % 290 + 2 for position in range(120)]
# float16 alone gives 0.002 to 0.003.
F16_ERROR = 0.005
Small = PreTrainedTokenizerFast
QUANT = gguf.GGMLQuantizationType
Export = Callable[..., tuple[PreTrainedModel, Path]]


@pytest.fixture
def exported(tiny_model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path) -> Export:
    """A tiny model and the file it was exported to."""

    def make(family: str = "llama", uneven: bool = False, **settings: Any) -> tuple[PreTrainedModel, Path]:
        model = tiny_model(family, **{"vocab_size": 300, "bos_token_id": 0, "pad_token_id": None, **settings})
        if uneven:
            cut_unevenly(model)
        secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
        return model, tmp_path / "model.gguf"

    return make


def read(file: Path) -> PreTrainedModel:
    return secateur.load(file, dtype="float32", device="cpu")[0]


def from_llama_cpp(file: Path, model: PreTrainedModel) -> float:
    """The largest difference of a log-probability between llama.cpp and a model."""
    expected = log_probabilities(model, PROMPT)
    found = LlamaCpp(file).next_log_probabilities(PROMPT, len(expected))
    return max(abs(float(expected[token]) - value) for token, value in found.items())


def with_rope(**settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **settings}}


CASES: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False, **with_rope(rope_type="default", rope_theta=500.0)},
    "linear": {"head_dim": 32, **with_rope(rope_type="linear", factor=3.0)},
    "yarn": with_rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
    "uneven": {"uneven": True},
}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
OF_LLAMA: dict[str, dict[str, Any]] = {
    "llama3": with_rope(**LLAMA3, factor=8.0, original_max_position_embeddings=64),
    "attention bias": {"attention_bias": True},
    "mlp bias": {"mlp_bias": True},
    "all of it": {
        **with_rope(**LLAMA3, factor=8.0, original_max_position_embeddings=64),
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
        "head_dim": 32,
        "uneven": True,
    },
}


def require_llama_cpps(model: PreTrainedModel, file: Path) -> None:
    again = read(file)
    assert from_llama_cpp(file, again) < F16_ERROR
    torch.testing.assert_close(log_probabilities(again, PROMPT), log_probabilities(model, PROMPT), atol=5e-3, rtol=0)
    assert layer_widths(again) == layer_widths(model)


@pytest.mark.parametrize("case", CASES)
def test_every_family_is_read_as_llama_cpp_runs_it(case: str, family: str, exported: Export) -> None:
    # Qwen2's own graph wants heads that add up to the hidden size; those of "linear" do not, and are in deci.
    heads = {"num_attention_heads": 4} if family == "qwen2" else {}
    require_llama_cpps(*exported(family, **{**heads, **CASES[case]}))


@pytest.mark.parametrize("case", OF_LLAMA)
def test_what_llama_has_more(case: str, exported: Export) -> None:
    require_llama_cpps(*exported("llama", **OF_LLAMA[case]))


def test_heads_that_do_not_divide_the_hidden_size(
    tiny_model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    """Transformers' Llama refuses such a config; secateur's class for uneven layers takes it."""
    model = cut_unevenly(tiny_model(vocab_size=300, bos_token_id=0, pad_token_id=None), [(3, 64)] * 4)
    assert secateur.export(model, small_tokenizer, tmp_path / "model.gguf").architecture == "llama"
    require_llama_cpps(model, tmp_path / "model.gguf")


def test_qwen3_filled_up_with_zeros(exported: Export) -> None:
    model, file = exported("qwen3", uneven=True, tie_word_embeddings=False)
    again = read(file)
    assert from_llama_cpp(file, again) < F16_ERROR
    torch.testing.assert_close(log_probabilities(again, PROMPT), log_probabilities(model, PROMPT), atol=5e-3, rtol=0)


YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 64}


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "none", "factor": 3.0},
        {"type": "yarn", "factor": 4.0},
        {**YARN, "attn_factor": 1.3},
    ],
)
def test_scaling_that_the_export_does_not_write(scaling: dict[str, object], exported: Export) -> None:
    _, file = exported()
    file = edited(file, {f"llama.rope.scaling.{key}": value for key, value in scaling.items()})
    assert from_llama_cpp(file, read(file)) < F16_ERROR


@pytest.mark.parametrize(
    "keys",
    [
        {"llama.rope.scale_linear": 3.0},
        {"llama.attention.head_count": [8, 8, 8, 8], "llama.feed_forward_length": [96] * 4},
        {"llama.expert_count": 0, "llama.attention.causal": True, "llama.pooling_type": 0, "other.key": "x"},
    ],
)
def test_other_ways_to_say_it(keys: dict[str, object], exported: Export) -> None:
    _, file = exported()
    file = edited(file, keys)
    assert from_llama_cpp(file, read(file)) < F16_ERROR


def test_a_head_size_that_no_key_states(exported: Export) -> None:
    _, file = exported("qwen3", num_attention_heads=4)
    file = edited(file, without=["qwen3.attention.key_length", "qwen3.attention.value_length"])
    assert read(file).config.head_dim == 16


@pytest.mark.parametrize(
    ("family", "name", "size"), [("llama", "attn_q", 128), ("llama", "ffn_gate", 96), ("qwen3", "attn_q", 128)]
)
def test_biases_of_some_projections_are_completed_with_zeros(
    family: str, name: str, size: int, exported: Export, caplog: pytest.LogCaptureFixture
) -> None:
    _, file = exported(family)
    bias = np.random.default_rng(0).standard_normal((4, size), np.float32)
    file = edited(file, tensors={f"blk.{layer}.{name}.bias": bias[layer] for layer in range(4)})
    with caplog.at_level(logging.INFO):
        again = read(file)
    assert from_llama_cpp(file, again) < F16_ERROR
    assert f"leaves out {8 if name == 'ffn_gate' else 12} biases that the family has" in caplog.text


@pytest.mark.parametrize(
    ("head_dim", "theta", "factor"), [(128, 500000.0, 8.0), (64, 500000.0, 32.0), (16, 10000.0, 8.0), (16, 1e6, 3.5)]
)
def test_llama_3s_scaling_comes_back_from_its_factors(
    head_dim: int, theta: float, factor: float, exported: Export
) -> None:
    """Llama 3.1's and 3.2's numbers, and small ones of which two, one or no frequency lies between the bounds."""
    length = 8192 if head_dim > 16 else 64
    rope = {**LLAMA3, "rope_theta": theta, "factor": factor, "original_max_position_embeddings": length}
    model, file = exported(head_dim=head_dim, rope_parameters=rope, max_position_embeddings=2 * length)
    config, _ = load_settings(file)
    if head_dim > 16:
        assert config.rope_parameters == rope
    torch.testing.assert_close(read(file).model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


@pytest.mark.parametrize(("factor", "kind"), [(1.0, "default"), (2.0, "linear")])
def test_factors_that_are_all_the_same(factor: float, kind: str, exported: Export) -> None:
    _, file = exported()
    config, _ = load_settings(edited(file, tensors={"rope_freqs.weight": np.full(8, factor, np.float32)}))
    assert config.rope_parameters["rope_type"] == kind and config.rope_parameters.get("factor", 1.0) == factor


REFUSED_KEYS = {
    "attention.sliding_window": 32,
    "attention.scale": 0.1,
    "attention.clamp_kqv": 8.0,
    "attention.causal": False,
    "attention.temperature_scale": 0.1,
    "attention.temperature_length": 8192,
    "attention.value_length": 32,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "logit_scale": 0.5,
    "residual_scale": 0.22,
    "embedding_scale": 12.0,
    "expert_count": 8,
    "expert_used_count": 2,
    "rope.dimension_count": 8,
    "rope.dimension_sections": [4, 4, 4, 4],
    "rope.scaling.type": "longrope",
    "rope.scaling.attn_factor": 1.2,
    "rope.scaling.yarn_beta_slow": 2.0,
    "rope.scaling.yarn_log_multiplier": 0.1,
    "a_setting_of_tomorrow": 1,
    "attention.layer_norm_rms_epsilon": float("nan"),
    "rope.freq_base": float("inf"),
    "rope.scaling.factor": -2.0,
    "block_count": 2**31,
    "attention.head_count": 0,
    "attention.head_count_kv": 3,
    "feed_forward_length": [96, 96, 96, 40],
    "embedding_length": 2**24,
    "context_length": "long",
}


@pytest.mark.parametrize("key", REFUSED_KEYS)
def test_keys_that_are_not_carried_are_named(key: str, exported: Export) -> None:
    _, file = exported()
    file = edited(file, {f"llama.{key}": REFUSED_KEYS[key]})
    short = {
        "attention.head_count_kv": "head_count_kv",
        "block_count": "llama.block_count is 2147483648",
        "embedding_length": "token_embd",
    }
    with pytest.raises(ModelError) as error:
        load_settings(file)
    assert short.get(key, f"llama.{key} ") in str(error.value) and "\n" not in str(error.value)


def test_a_window_as_long_as_the_context_changes_nothing(exported: Export) -> None:
    _, file = exported(max_position_embeddings=256)
    assert load_settings(edited(file, {"llama.attention.sliding_window": 256}))


@pytest.mark.parametrize(
    ("family", "name", "shape"),
    [
        ("llama", "blk.0.attn_norm.bias", (64,)),
        ("llama", "blk.0.attn_q_norm.weight", (16,)),
        ("llama", "blk.1.ffn_down.scale", (1,)),
        ("llama", "blk.0.ffn_gate_inp.weight", (8, 64)),
        ("llama", "rope_factors_long.weight", (8,)),
        ("llama", "blk.4.attn_norm.weight", (64,)),
        ("llama", "output.bias", (300,)),
        ("qwen2", "blk.0.attn_output.bias", (64,)),
        ("qwen3", "blk.0.post_attention_norm.weight", (64,)),
    ],
)
def test_tensors_that_are_not_carried_are_named(
    family: str, name: str, shape: tuple[int, ...], exported: Export
) -> None:
    _, file = exported(family, num_attention_heads=4)
    with pytest.raises(ModelError, match=f"holds the tensor {name}, which secateur does not carry"):
        load_settings(edited(file, tensors={name: np.ones(shape, np.float32)}))


def test_other_factors_than_llama_3s_are_refused(exported: Export) -> None:
    _, file = exported()
    file = edited(file, tensors={"rope_freqs.weight": np.array([1, 1, 1, 2, 3, 4, 5, 6], np.float32)})
    with pytest.raises(ModelError, match=r"by the tensor rope_freqs\.weight, and by another rule than Llama 3's"):
        load_settings(file)


def test_fewer_layers_than_the_file_has_are_not_half_a_model(exported: Export) -> None:
    _, file = exported()
    with pytest.raises(ModelError, match=r"holds the tensor blk\.2\.\w+\.weight"):
        read(edited(file, {"llama.block_count": 2}))


@pytest.mark.parametrize(
    ("tensors", "without", "reason"),
    [
        ({}, ["blk.1.ffn_up.weight"], r"lacks 1 tensors, blk\.1\.ffn_up\.weight first"),
        ({}, ["token_embd.weight"], r"lacks the tensor token_embd\.weight"),
        ({"blk.1.ffn_norm.weight": np.ones(63, np.float32)}, [], r"ffn_norm\.weight has the shape \(63,\)"),
        ({"blk.1.ffn_norm.weight": np.ones(64, np.int32)}, [], r"ffn_norm\.weight in the number format I32"),
    ],
)
def test_tensors_that_do_not_fit(
    tensors: dict[str, np.ndarray], without: list[str], reason: str, exported: Export
) -> None:
    _, file = exported()
    with pytest.raises(ModelError, match=reason):
        load_settings(edited(file, tensors=tensors, without=without))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"])
def test_number_formats_come_back_as_they_are_stored(
    kind: str, tiny_model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    model = tiny_model(vocab_size=300, bos_token_id=0, pad_token_id=None)
    secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
    quantised = gguf.quants.quantize(model.model.layers[1].mlp.down_proj.weight.detach().numpy(), QUANT[kind])
    file = edited(tmp_path / "model.gguf", tensors={"blk.1.ffn_down.weight": (quantised, QUANT[kind])})
    expected = torch.from_numpy(gguf.dequantize(quantised, QUANT[kind]))
    assert torch.equal(read(file).model.layers[1].mlp.down_proj.weight, expected)


@pytest.mark.parametrize(("dtype", "stored"), [("f16", "float16"), ("bf16", "bfloat16"), ("q8_0", "bfloat16")])
def test_a_model_from_a_file_is_stored_in_the_files_format(
    dtype: str, stored: str, tiny_model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
) -> None:
    secateur.export(tiny_model(vocab_size=300, bos_token_id=0), small_tokenizer, tmp_path / "m.gguf", dtype=dtype)
    secateur.save(*secateur.load(tmp_path / "m.gguf", device="cpu"), tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == stored


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(bad: float, exported: Export) -> None:
    _, file = exported()
    weights = np.ones((64, 96), np.float16)
    weights[3, 5] = bad
    with pytest.raises(ModelError, match=r"holds NaN or infinite values in blk\.2\.ffn_down\.weight"):
        read(edited(file, tensors={"blk.2.ffn_down.weight": weights}))


def test_weights_beyond_float16(exported: Export) -> None:
    _, file = exported()
    file = edited(file, tensors={"blk.2.ffn_down.weight": np.full((64, 96), 1e5, np.float32)})
    with pytest.raises(ModelError, match=r"beyond what torch.float16 holds in blk\.2\.ffn_down\.weight"):
        secateur.load(file, dtype="float16", device="cpu")


@pytest.mark.parametrize("name", ["mistral", "llama", None])
def test_a_models_name_is_no_architecture(name: str | None, exported: Export) -> None:
    model, file = exported()
    named = edited(file, {} if name is None else {"general.name": name}, without=["general.name"])
    again, tokenizer = secateur.load(named, dtype="float32", device="cpu")
    torch.testing.assert_close(log_probabilities(again, PROMPT), log_probabilities(model, PROMPT), atol=5e-3, rtol=0)
    assert tokenizer.convert_ids_to_tokens(5) == secateur.load(file, device="cpu")[1].convert_ids_to_tokens(5)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"general.architecture": "gemma4"}, "'gemma4' of .* is not supported: .*; supported are llama, mistral"),
        ({"general.type": "adapter"}, "holds no model: its general.type is adapter"),
        ({"split.count": 3}, "is one part of 3; join them first"),
        ({"tokenizer.ggml.model": "t5"}, r"a tokenizer of the kind t5 \(tokenizer\.ggml\.model\)"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, r"sets tokenizer\.ggml\.pre to deepseek-llm"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "has 2 tokens and the model 300 embeddings"),
        ({"tokenizer.ggml.merges": ["no such", "tokens here"]}, "the merge no such is not of its tokens"),
        ({"tokenizer.ggml.eos_token_id": 300}, "eos_token_id is 300, outside"),
        ({"tokenizer.ggml.token_type": [1, 2, 3]}, "token_type is no list of one number for each token"),
    ],
)
def test_files_that_are_not_read(keys: dict[str, object], reason: str, exported: Export) -> None:
    _, file = exported()
    with pytest.raises(ModelError, match=reason):
        load_settings(edited(file, keys))


class TestTokenizer:
    def test_known_words_are_taken_whole_where_llama_cpp_does(
        self, tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
    ) -> None:
        """Llama 3 has tokens that no merges lead to."""
        plain = byte_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False), size=300)
        content = json.loads(plain.backend_tokenizer.to_str())
        content["model"]["vocab"] |= {"zyxw": 300}
        model = tiny_model(vocab_size=301, num_hidden_layers=1, bos_token_id=0, pad_token_id=None)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=plain.backend_tokenizer.from_str(json.dumps(content)), bos_token="<bos>", eos_token="<eos>"
        )
        secateur.export(model, tokenizer, tmp_path / "model.gguf")
        for pre, found in (("gpt-2", False), ("llama-bpe", True), ("tekken", True)):
            file = edited(tmp_path / "model.gguf", {"tokenizer.ggml.pre": pre})
            tokens = load_settings(file)[1]("zyxw").input_ids
            assert (tokens == [300]) == found, pre
            assert tokens == LlamaCpp(file).tokens("zyxw"), pre

    def test_begin_tokens_are_added_where_llama_cpp_does_so_unasked(self, exported: Export) -> None:
        _, file = exported()
        file = edited(file, {"tokenizer.ggml.pre": "llama-bpe"}, without=["tokenizer.ggml.add_bos_token"])
        assert load_settings(file)[1]("Some text").input_ids == LlamaCpp(file).tokens("Some text")

    def test_digits_stand_alone(self, exported: Export) -> None:
        _, file = exported()
        _, tokenizer = load_settings(edited(file, {"tokenizer.ggml.pre": "smollm"}))
        split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
        assert [piece for piece, _ in split] == ["a", "ĠĠ", "1", "2"]

    def test_what_lies_beside_the_file_is_not_its_own(self, exported: Export) -> None:
        _, file = exported()
        (file.parent / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
        (file.parent / "config.json").write_text("{}")
        assert load_settings(file)[1].eos_token == "<eos>"

    def test_chat_templates_with_names_come_back(
        self, tiny_model: Callable[..., PreTrainedModel], small_tokenizer: Small, tmp_path: Path
    ) -> None:
        tokenizer = copy.deepcopy(small_tokenizer)
        tokenizer.chat_template = {"default": "plain", "tools": "with tools"}
        secateur.export(tiny_model(vocab_size=300, bos_token_id=0), tokenizer, tmp_path / "model.gguf")
        assert load_settings(tmp_path / "model.gguf")[1].chat_template == tokenizer.chat_template
