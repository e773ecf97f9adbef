"""Parameters and FLOPs counted from a config alone, against Transformers' own models and PyTorch's counter."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from secateur.errors import ModelError
from secateur.models import count_parameters, supported_model_types
from secateur.planning import model_shape, shape_of
from secateur.planning import source as sources
from secateur.planning.mixing import SoftmaxAttention
from secateur.planning.shape import ModelShape
from tiny import make_tiny_model
from uneven import WIDTHS, cut_unevenly

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
ALL = supported_model_types()
LINEAR = ("qwen3_5_text",)
LLAMA_70B = {
    **LLAMA_8B,
    "hidden_size": 8192,
    "intermediate_size": 28_672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}


def test_parameters_of_llama_3() -> None:
    assert shape_of(LLAMA_8B).parameters == 8_030_261_248
    assert shape_of(LLAMA_70B).parameters == 70_553_706_496


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"head_dim": 64},
        {"attention_bias": True, "attention_out_bias": True},
        {"tie_word_embeddings": True},
        {"mlp_bias": True, "use_bias": True},
        {"num_key_value_heads": 32},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ALL)
def test_parameters_are_those_of_transformers(family: str, changed: dict[str, Any]) -> None:
    settings = {**LLAMA_8B, "num_hidden_layers": 4, "pad_token_id": None, **changed, "model_type": family}
    config = AutoConfig.for_model(**settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape_of(settings).parameters == count_parameters(model)
    assert shape_of(config.to_dict()).parameters == count_parameters(model)


def widths_of(family: str) -> list[tuple[int, int]]:
    """What the cut leaves; of one family every other layer has two key/value heads from the beginning."""
    most = (4, 2, 4, 2) if family == "gemma4_unified_text" else (4,) * 4
    return [(min(heads, limit), channels) for (heads, channels), limit in zip(WIDTHS, most, strict=True)]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ALL)
def test_parameters_of_an_uneven_model(family: str, tied: bool, tmp_path: Path) -> None:
    model = cut_unevenly(make_tiny_model(family, tie_word_embeddings=tied))
    model.config.save_pretrained(tmp_path)
    shape = model_shape(tmp_path)
    assert shape.parameters == count_parameters(model)
    assert shape.embedding_parameters == 259 * 64 * (1 if tied else 2)
    assert [(layer.attention.units, layer.mlp.units) for layer in shape.layers] == [
        (heads if layer.attention.divisible else 1, channels)
        for layer, (heads, channels) in zip(shape.layers, widths_of(family), strict=True)
    ]


def beyond_causal(shape: ModelShape, seqlen: int) -> float:
    """What attention computes over keys that come after a token or lie before its window."""
    softmax = [layer.mixing for layer in shape.layers if isinstance(layer.mixing, SoftmaxAttention)]
    return sum(4 * each.query_width * seqlen - each.flops(seqlen) for each in softmax) * seqlen


@pytest.mark.parametrize("family", ALL)
def test_flops_are_those_that_pytorch_counts(family: str) -> None:
    seqlen = 64
    model = make_tiny_model(family)
    model.set_attn_implementation("eager")
    shape = shape_of(model.config.to_dict())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, seqlen, dtype=torch.long), use_cache=False)
    planned = seqlen * (shape.body_flops(seqlen) + shape.head_flops) + beyond_causal(shape, seqlen)
    # The convolutions of linear attention are not planned.
    near = 0.02 if family in LINEAR else 1e-6
    assert planned == pytest.approx(counter.get_total_flops(), rel=near)


def test_a_window_bounds_the_keys() -> None:
    def keys(seqlen: int, window: float) -> float:
        return sum(min(token + 1, window) for token in range(seqlen)) / seqlen

    for seqlen, window in ((8, 3), (8, 8), (3, 8), (5, math.inf)):
        mixing = SoftmaxAttention(query_width=1, key_width=1, window=window)
        assert mixing.flops(seqlen) == pytest.approx(4 * keys(seqlen, window))
        assert mixing.cached(seqlen) == 2 * min(seqlen, window)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "olmo3"])
def test_windows_are_those_of_the_kinds_of_layers(family: str) -> None:
    shape = shape_of(make_tiny_model(family).config.to_dict())
    assert [layer.mixing.window for layer in shape.layers] == [12, math.inf] * 2


def test_a_window_of_all_layers() -> None:
    mistral = {**LLAMA_8B, "model_type": "mistral", "num_hidden_layers": 1}
    assert shape_of({**mistral, "sliding_window": 64}).layers[0].mixing.window == 64
    assert shape_of({**mistral, "sliding_window": None}).layers[0].mixing.window == math.inf
    # Qwen2 has a window only where use_sliding_window says so.
    assert shape_of({**mistral, "model_type": "qwen2", "sliding_window": 64}).layers[0].mixing.window == math.inf


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is not supported: its layers are of another kind"),
        ({"model_type": "gpt2"}, "; supported are llama, mistral, qwen2, qwen3"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"hidden_size": -4096}, "hidden_size is -4096"),
        ({"hidden_size": 4000.5}, "hidden_size is 4000.5"),
        ({"hidden_size": "big"}, "hidden_size is big"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_attention_heads": 24}, "num_attention_heads 24 does not divide hidden_size 4096"),
        ({"num_key_value_heads": 5}, "num_key_value_heads 5 does not divide num_attention_heads 32"),
        ({"intermediate_size_per_layer": [8, 8]}, "intermediate_size_per_layer has 2 numbers for 32 layers"),
        (
            {"num_attention_heads_per_layer": [4] * 32, "num_key_value_heads_per_layer": [3] * 32},
            "layer 0 has 4 query heads for 3 key/value heads",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_config_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        shape_of({**LLAMA_8B, **changed})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_numbers_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 8}))
    with pytest.raises(
        ModelError, match="lacks hidden_size, intermediate_size, num_hidden_layers, num_attention_heads"
    ):
        model_shape(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[1]", "not a JSON object")])
def test_a_file_that_is_no_config(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        model_shape(tmp_path)


def test_a_directory_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        model_shape(tmp_path)


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"reads the config\.json of a model directory"):
        model_shape(tmp_path / "model.gguf")


class Answer:
    def __init__(self, status: int, content: object) -> None:
        self.status_code, self.content = status, content

    def json(self) -> object:
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


class Hub:
    def __init__(self, answer: Answer | Exception) -> None:
        self.answer, self.asked = answer, 0

    def get(self, *_: object, **__: object) -> Answer:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def on_hub(monkeypatch: pytest.MonkeyPatch, answer: Answer | Exception) -> Hub:
    hub = Hub(answer)
    monkeypatch.setattr(sources, "get_session", lambda: hub)
    return hub


def test_a_config_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    on_hub(monkeypatch, Answer(200, LLAMA_8B))
    assert model_shape("some/llama").parameters == 8_030_261_248


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (OSError("no route"), "the hub cannot be reached"),
        (Answer(404, {}), "there is no such model"),
        (Answer(401, {}), "it is gated or does not exist"),
        (Answer(503, {}), "status 503"),
        (Answer(200, ValueError("bad")), "is not valid JSON"),
        (Answer(200, [1]), "is not a JSON object"),
    ],
)
def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch, answer: Answer | Exception, message: str) -> None:
    hub = on_hub(monkeypatch, answer)
    with pytest.raises(ModelError, match=message):
        model_shape("some/model")
    assert hub.asked == 1


def test_what_is_no_hub_id() -> None:
    with pytest.raises(ModelError, match="does not exist; give a hub id"):
        model_shape("no/such/directory")
