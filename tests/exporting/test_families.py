"""Families with graphs of their own in llama.cpp: the same probabilities and tokens as in Transformers."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from exporting_helpers import LlamaCpp, log_probabilities
from family_models import FAMILIES, LONGROPE, PROMPT, SQUARE, YARN, make_family
from gguf_files import edited
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.errors import ModelError
from secateur.exporting import opening_of, require_exportable
from secateur.exporting.engines import VLLM_FAMILIES
from secateur.exporting.nemotron_nas import require_held
from secateur.models import count_parameters, layer_widths
from secateur.models.loading import load_settings

F16_ERROR = 0.01
Small = PreTrainedTokenizerFast


def require_same(file: Path, model: PreTrainedModel, context: int = 512) -> None:
    """Log-probabilities after a prompt, and 32 tokens that each of the two writes on."""
    engine = LlamaCpp(file, context)
    expected = log_probabilities(model, PROMPT)
    found = engine.next_log_probabilities(PROMPT, len(expected))
    assert max(abs(float(expected[token]) - value) for token, value in found.items()) < F16_ERROR
    text = [*PROMPT, *engine.greedy(PROMPT, 32)]
    with torch.no_grad():
        predicted = model(torch.tensor([text])).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
    written = predicted[range(32), text[len(PROMPT) :]]
    # Of two tokens that are about as probable, rounding may take either.
    assert float((predicted.max(-1).values - written).max()) < 2 * F16_ERROR


@pytest.mark.parametrize("widths", ["uncut", "even", "uneven"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_probabilities(
    family: str, widths: str, small_tokenizer: Small, tmp_path: Path
) -> None:
    model = make_family(family, widths)
    _, even, uneven = FAMILIES[family]
    require_exportable(model.config, small_tokenizer)
    result = secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
    require_same(tmp_path / "model.gguf", model)
    # An even cut of heads leaves them narrower than the hidden states.
    expected = uneven if widths == "uneven" or (family == "phi3" and widths == "even") else even
    assert result.architecture == expected
    assert result.parameters == count_parameters(model)
    assert result.per_layer == (widths == "uneven" and expected == "deci")


@pytest.mark.parametrize("family", FAMILIES)
def test_where_an_uneven_model_opens(family: str) -> None:
    config = make_family(family, "uneven").config
    run = ", vLLM" if family in VLLM_FAMILIES else ""
    assert opening_of(config).line == f"Opens in Transformers{run} (remote code); by export: llama.cpp"
    with pytest.raises(ModelError, match=f"compute as {family}'s"):
        require_held(config)


@pytest.mark.parametrize("widths", ["uncut", "uneven"])
def test_longrope_up_to_the_original_length(widths: str, small_tokenizer: Small, tmp_path: Path) -> None:
    settings = {"rope_parameters": LONGROPE, "max_position_embeddings": 1024, "original_max_position_embeddings": 256}
    model = make_family("phi3", widths, **settings)
    secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    architecture = fields["general.architecture"].contents()
    assert fields[f"{architecture}.context_length"].contents() == 256
    require_same(tmp_path / "model.gguf", model, context=256)
    if widths == "uncut":
        again = secateur.load(tmp_path / "model.gguf", dtype="float32", device="cpu")[0]
        require_same(tmp_path / "model.gguf", again, context=256)
        assert again.config.rope_parameters["long_factor"] == LONGROPE["long_factor"]
    else:
        with pytest.raises(ModelError, match="by another rule than Llama 3's"):
            secateur.load(tmp_path / "model.gguf")


def test_gemma_of_the_largest_size_has_its_own_scale_of_scores(small_tokenizer: Small, tmp_path: Path) -> None:
    model = make_family("gemma2", num_hidden_layers=46, layer_types=["sliding_attention", "full_attention"] * 23)
    secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
    require_same(tmp_path / "model.gguf", model)


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "every 4th layer"),
        ("smollm3", {"attention_bias": True}, "smollm3 has no attention_bias, and this model has"),
        (
            "gemma3_text",
            {"layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"]},
            "in a fixed order",
        ),
        (
            "gemma3_text",
            {"layer_types": ["full_attention"] * 4},
            "layers with a sliding window, and this model has none",
        ),
        ("cohere", {"use_qk_norm": True}, "cohere has no use_qk_norm, and this model has"),
        ("cohere2", {"head_dim": 16}, "8 heads of 16 cannot be filled up"),
        ("cohere2", {"tie_word_embeddings": False}, "by the embeddings at the end, and this model by other weights"),
        ("gpt_neox", {"attention_bias": False}, "gpt_neox wants attention_bias, and this model has none"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "gemma3_text has no final_logit_softcapping"),
        ("gemma2", {"hidden_activation": "silu"}, "gelu_pytorch_tanh, and this model has silu"),
        ("gemma2", {"tie_word_embeddings": False}, "by the embeddings at the end, and this model by other weights"),
        ("gemma2", {"final_logit_softcapping": None}, "gemma2 wants final_logit_softcapping, and this model has none"),
        ("olmo2", {"head_dim": 16}, "8 heads of 16 cannot be filled up"),
        ("starcoder2", {"use_bias": False}, "starcoder2 wants use_bias, and this model has none"),
        (
            "olmo3",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 1e4},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
                }
            },
            "as in the others",
        ),
        ("qwen3_5_text", {"linear_value_head_dim": 16}, "8 for keys and 16 for values"),
        (
            "qwen3_5_text",
            {"layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"]},
            "in another order",
        ),
        ("glm4", {"rope_parameters": {**YARN, "rope_theta": 1e4}}, "no rotary positions of the type 'yarn'"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused_by_the_config(
    family: str, settings: dict[str, Any], reason: str, small_tokenizer: Small
) -> None:
    with pytest.raises(ModelError, match=reason):
        require_exportable(make_family(family, **settings).config, small_tokenizer)


def test_a_window_that_the_graph_lacks_shortens_the_context(small_tokenizer: Small, tmp_path: Path) -> None:
    model = make_family("phi3", sliding_window=32)
    secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
    assert gguf.GGUFReader(tmp_path / "model.gguf").fields["phi3.context_length"].contents() == 32


@pytest.mark.parametrize("rope", [{"rope_type": "default"}, {"rope_type": "linear", "factor": 3.0}])
def test_ministrals_scaling_by_position_without_yarn(
    rope: dict[str, Any], small_tokenizer: Small, tmp_path: Path
) -> None:
    by_position = {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16}
    model = make_family("ministral3", rope_parameters={"rope_theta": 1e4, **rope, **by_position})
    secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
    require_same(tmp_path / "model.gguf", model)
    require_same(tmp_path / "model.gguf", secateur.load(tmp_path / "model.gguf", dtype="float32", device="cpu")[0])


def test_filling_up_keeps_norms_over_all_heads(small_tokenizer: Small, tmp_path: Path) -> None:
    model = make_family("olmo2", "uneven", rms_norm_eps=0.1, **SQUARE)
    result = secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
    assert result.parameters_in_file > result.parameters
    require_same(tmp_path / "model.gguf", model)


WITHOUT_HALVES = {"drop": "attention=0-1,mlp=2", "samples": 4, "seqlen": 32, "own_text": 0, "compensate": False}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_layers_without_halves(family: str, small_tokenizer: Small, tmp_path: Path) -> None:
    model = make_family(family)
    secateur.prune(model, small_tokenizer, **WITHOUT_HALVES)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
    result = secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
    assert result.architecture == "deci"
    require_same(tmp_path / "model.gguf", model)
    again, _ = secateur.load(tmp_path / "model.gguf", dtype="float32", device="cpu")
    assert layer_widths(again) == layer_widths(model)
    require_same(tmp_path / "model.gguf", again)
    secateur.save(again, small_tokenizer, tmp_path / "saved")
    saved, _ = secateur.load(tmp_path / "saved", dtype="float32", device="cpu")
    assert torch.equal(log_probabilities(saved, PROMPT), log_probabilities(again, PROMPT))
    torch.testing.assert_close(log_probabilities(again, PROMPT), log_probabilities(model, PROMPT), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def without_halves(small_tokenizer: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a model some of whose layers have no attention, and one no MLP."""
    model, file = make_family("llama"), tmp_path_factory.mktemp("halves") / "model.gguf"
    secateur.prune(model, small_tokenizer, **WITHOUT_HALVES)
    secateur.export(model, small_tokenizer, file)
    return file


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"deci.feed_forward_length": [96, 96, 0, 96]}, r"layer 2 has no MLP \(deci\.feed_forward_length 0\)"),
        ({"deci.attention.head_count_kv": [4, 0, 0, 4]}, "layer 2 has 8 heads and 0 key/value heads"),
        ({"deci.attention.head_count": [0] * 4, "deci.attention.head_count_kv": [0] * 4}, "no layer has attention"),
        ({"deci.attention.head_count": [8, 0, 8]}, "head_count has 3 entries, for 4 layers"),
        ({"deci.attention.head_count": [8, 8, 8]}, "head_count has 3 entries, for 4 layers"),
        ({"deci.feed_forward_length": [96] * 5}, "feed_forward_length has 5 entries, for 4 layers"),
        ({"deci.feed_forward_length": [96, 2**25, 96, 96]}, "feed_forward_length is 33554432 and must be a whole"),
        (
            {"secateur.attention.head_count": [0] * 4, "secateur.attention.head_count_kv": [0] * 4},
            "no layer its attent",
        ),
    ],
    ids=str,
)
def test_lists_that_are_not_of_the_layers(keys: dict[str, object], message: str, without_halves: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_settings(edited(without_halves, keys))
    assert "\n" not in str(caught.value)


def test_layers_without_halves_that_no_graph_has(small_tokenizer: Small, tmp_path: Path) -> None:
    model = make_family("gemma3_text")
    secateur.prune(model, small_tokenizer, **WITHOUT_HALVES)
    with pytest.raises(ModelError, match=r"this model is gemma3_text; cut it with keep_halves=True"):
        secateur.export(model, small_tokenizer, tmp_path / "model.gguf")
