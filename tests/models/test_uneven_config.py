"""The config of layers with widths of their own: what is built from it, what comes back from disk, what is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from secateur.models import LayerWidths, layer_widths
from secateur.models.modeling_secateur import WIDTHS, UnevenLlamaConfig
from secateur.models.widths import widths_in

SMALL = {"vocab_size": 32, "hidden_size": 16, "head_dim": 4, "max_position_embeddings": 64}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
widths = st.builds(
    lambda groups, channels: LayerWidths(2 * groups, groups, channels), st.integers(1, 3), st.integers(1, 40)
)


def config_of(family: str, layers: list[LayerWidths], **more: Any) -> Any:
    """A config whose numbers for all layers are those of the first."""
    first = {name: getattr(layers[0], name) for name in WIDTHS}
    named = {index: {name: getattr(layer, name) for name in WIDTHS} for index, layer in enumerate(layers)}
    return AutoConfig.for_model(
        f"secateur_{family}", **SMALL, **first, num_hidden_layers=len(layers), per_layer_config=named, **more
    )


@settings(max_examples=25, deadline=None)
@given(layers=st.lists(widths, min_size=1, max_size=4), family=st.sampled_from(FAMILIES))
def test_each_layer_has_the_widths_it_was_given(
    layers: list[LayerWidths], family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = config_of(family, layers)
    directory = tmp_path_factory.mktemp("config")
    config.save_pretrained(directory)
    for same in (config, copy.deepcopy(config), AutoConfig.from_pretrained(directory)):
        assert widths_in(same) == layers
        with torch.device("meta"):
            assert layer_widths(AutoModelForCausalLM.from_config(same)) == layers
            base = AutoModel.from_config(same)
        assert [layer.mlp.up_proj.out_features for layer in base.layers] == [each.intermediate_size for each in layers]
    stored = json.loads((directory / "config.json").read_text())
    # Only what differs is named.
    assert set(stored.get("per_layer_config", {})) == {
        str(index) for index, layer in enumerate(layers) if layer != layers[0]
    }


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({4: {"intermediate_size": 8}}, r"range \[0, 2\)"),
        ({1: {"hidden_size": 8}}, "per_layer_config has hidden_size"),
        ({1: {"sliding_window": 8}}, "per_layer_config has sliding_window"),
        ({1: {"no_such": 8}}, "no_such"),
        ({1: {"skip": ["mlp"]}}, "skips"),
        ({1: {"num_key_value_heads": 3}}, "layer 1 has 4 query heads for 3 key/value heads"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(layers: dict[int, dict[str, Any]], message: str) -> None:
    even = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
    with pytest.raises(Exception, match=message):
        UnevenLlamaConfig(**SMALL, **even, per_layer_config=layers, sliding_window=None)


def test_how_attention_is_computed_can_change(family: str, tmp_path: Path) -> None:
    layers = [LayerWidths(4, 2, 24), LayerWidths(2, 1, 8)]
    for build in (AutoModelForCausalLM, AutoModel):
        model = build.from_config(config_of(family, layers))
        assert model.config._attn_implementation == "sdpa"
        model.set_attn_implementation("eager")
        attention = [module for module in model.modules() if hasattr(module, "q_proj")]
        assert [module.config._attn_implementation for module in attention] == ["eager"] * 2
        eager = build.from_config(config_of(family, layers), attn_implementation="eager")
        attention = [module for module in eager.modules() if hasattr(module, "q_proj")]
        assert [module.config._attn_implementation for module in attention] == ["eager"] * 2
