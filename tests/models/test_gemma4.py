"""What Gemma 4 has that no other family has: keys of other layers, embeddings of each layer, two sizes of heads."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import change_weights

from secateur.calibration.sensitivity import final_states, residual_streams
from secateur.calibration.streaming import LayerStream
from secateur.calibration.walks import Walks
from secateur.errors import ModelError
from secateur.models import adapter_of, load, save
from secateur.models.adapters import head_of
from secateur.planning.shape import shape_of
from secateur.pruning.layer_importance import measure_layer_importance
from secateur.pruning.units import log_what_stays
from tiny import make_tiny_model, make_tiny_tokenizer

WINDOWS = torch.stack([torch.arange(3, 43), torch.arange(50, 90)])
# As google/gemma-4-E2B-it has it, and what is otherwise in google/gemma-4-31B-it.
E2B: dict[str, Any] = {
    "model_type": "gemma4_text",
    "final_logit_softcapping": 30.0,
    "global_head_dim": 512,
    "head_dim": 256,
    "hidden_size": 1536,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": 6144,
    "layer_types": [*["sliding_attention"] * 4, "full_attention"] * 7,
    "num_attention_heads": 8,
    "num_hidden_layers": 35,
    "num_key_value_heads": 1,
    "num_kv_shared_layers": 20,
    "sliding_window": 512,
    "use_double_wide_mlp": True,
    "vocab_size": 262144,
    "rope_parameters": {
        "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    },
}
DENSE: dict[str, Any] = {
    "hidden_size": 5376,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "intermediate_size": 21504,
    "num_hidden_layers": 60,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 10,
    "use_bidirectional_attention": "vision",
}


def test_attention_that_shares_keys_stays(caplog: pytest.LogCaptureFixture) -> None:
    model = make_tiny_model("gemma4_text")
    adapter = adapter_of(model)
    halves = [adapter.half(layer, "attention") for layer in adapter.layers(model)]
    assert [half.names.divisible for half in halves] == [True, False, True, False]
    assert [(half.heads, half.key_value_heads, half.cached_heads) for half in halves] == [(8, 4, 4)] * 3 + [(8, 4, 0)]
    with caplog.at_level(logging.INFO):
        log_what_stays(model)
    assert "The attention of layers 1, 3 stays as it is: it is attention that shares keys and values" in caplog.text


def test_residual_streams_end_as_the_model_does() -> None:
    """With the embeddings of each layer of each window, and keys and values that go on to later layers."""
    model = make_tiny_model("gemma4_text")
    _, last = residual_streams(model, WINDOWS)
    logits = head_of(model)(final_states(model, last))
    torch.testing.assert_close(logits, model(WINDOWS).logits, rtol=1e-4, atol=1e-4)


def test_what_leaves_a_layer_out_leaves_its_keys() -> None:
    importance = measure_layer_importance(make_tiny_model("gemma4_text"), WINDOWS, "removal", batch_size=1)
    assert len(importance.importance) == 4


def test_a_stopped_walk_goes_on_with_the_keys_of_layers_before(tmp_path: Path) -> None:
    model = make_tiny_model("gemma4_text")
    ends = []
    for walks in (Walks(tmp_path), Walks(tmp_path)):
        stream = LayerStream.start(model, WINDOWS, batch_size=1)
        begin = walks.begin("cut", {"uncut": stream})
        for index in range(begin, 4):
            for half in stream.halves(index):
                stream.run(index, half)
            stream.end_layer(index)
            if index == 1:
                walks.done("cut", index, {"uncut": stream})
        ends.append((begin, list(stream.hidden)))
    assert [begin for begin, _ in ends] == [0, 2]
    assert all(torch.equal(one, other) for one, other in zip(ends[0][1], ends[1][1], strict=True))


def test_keys_that_a_layer_does_not_use_may_be_stored(tmp_path: Path) -> None:
    """As published checkpoints store them."""
    model = make_tiny_model("gemma4_text")
    save(model, make_tiny_tokenizer(), tmp_path / "model")
    unused = {f"model.layers.3.self_attn.{name}_proj.weight": torch.ones(128, 64) for name in "kv"}
    change_weights(tmp_path / "model", lambda weights: {**weights, **unused})
    loaded, _ = load(tmp_path / "model", dtype="float32")
    assert torch.equal(loaded(WINDOWS).logits, model(WINDOWS).logits)


@pytest.mark.parametrize(("change", "parameters"), [({}, 4_628_569_344), (DENSE, 30_697_345_280)], ids=["E2B", "31B"])
def test_settings_as_they_are_published(change: dict[str, Any], parameters: int) -> None:
    assert shape_of({**E2B, **change}).parameters == parameters


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"enable_moe_block": True, "num_experts": 128}, "enable_moe_block, which is not supported: its MLP is a mix"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention is all"),
        ({"num_kv_shared_layers": 35}, "num_kv_shared_layers 35 leaves none of 35 layers keys of its own"),
        ({"num_kv_shared_layers": 33}, "types producing a cache is different"),
        ({"vocab_size_per_layer_input": 10}, "vocab_size_per_layer_input 10 is below vocab_size 262144"),
        ({"global_head_dim": 7}, "global_head_dim is 7"),
        ({"per_layer_config": {"0": {"intermediate_size": 64}}}, "which the code of gemma4_text does not read"),
        ({"model_type": "secateur_llama", "per_layer_config": {"0": {"head_dim": 4}}}, "layer 0 has head_dim"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refusals(change: dict[str, Any], what: str) -> None:
    content = {**E2B, **change}
    if content["model_type"] == "secateur_llama":
        content = {name: value for name, value in content.items() if name not in ("rope_parameters", "layer_types")}
    with pytest.raises(ModelError) as caught:
        shape_of(content)
    assert what in str(caught.value)
