"""What a cut must not change, for every family, in float32."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.calibration.streaming import LayerStream
from secateur.models import adapter_of, declare_widths, is_uneven, load, save, supported_model_types
from secateur.models.adapters import head_of
from secateur.models.halves import PARTS, Half, blocks_of
from secateur.pruning.units import keep_units
from tiny import OF_FAMILY, make_tiny_model, make_tiny_tokenizer
from uneven import cut_unevenly

# By the name that older releases know.
pytestmark = pytest.mark.filterwarnings("ignore:`past_key_values`:FutureWarning")
FAMILIES = supported_model_types()
TOKENS = torch.arange(3, 43)[None]  # longer than the small models' windows of 12
# The ε of a norm over all heads weighs more beside fewer heads.
EXACT: dict[str, dict[str, object]] = {family: {"rms_norm_eps": 1e-9} for family in ("olmo2", "olmo3")}
# Families with windows, and what puts them in a small model where it has none yet.
WINDOWED: dict[str, dict[str, object]] = {
    "mistral": {},
    "ministral3": {},
    "phi3": {},
    "starcoder2": {},
    "gemma2": {},
    "gemma3_text": {},
    "gemma4_text": {},
    "gemma4_unified_text": {},
    "olmo3": {},
    "cohere2": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 2},
    "smollm3": {"use_sliding_window": True, "layer_types": OF_FAMILY["olmo3"]["layer_types"]},
}


@torch.no_grad()
def logits_of(model: PreTrainedModel, tokens: Tensor = TOKENS) -> Tensor:
    return model(tokens, use_cache=False).logits


def require_close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@torch.no_grad()
def kill(half: Half, units: Tensor) -> None:
    """Make units give nothing: their columns of the output projection, and what a norm over all heads sees of them."""
    half.output.weight[:, blocks_of(units, half.block_size)] = 0
    for _, linear, size in half.whole_norms():
        linear.weight[blocks_of(units, size)] = 0


def cut_dead_units(model: PreTrainedModel) -> tuple[Tensor, PreTrainedModel]:
    """Kill units, other ones in each layer, and cut them. Returns the logits between the two."""
    adapter = adapter_of(model)
    halves = [adapter.half(layer, part) for layer in adapter.layers(model) for part in PARTS]
    kept = []
    for index, half in enumerate(half for half in halves if half.names.divisible):
        dead = torch.arange(0, half.units, 2 + index % 3)
        kill(half, dead)
        kept.append((half, torch.tensor([unit for unit in range(half.units) if unit not in dead.tolist()])))
    expected = logits_of(model)
    for half, units in kept:
        keep_units(half, units)
    declare_widths(model)
    assert is_uneven(model)
    return expected, model


@pytest.mark.parametrize("family", FAMILIES)
def test_dead_units_leave_and_logits_stay(family: str) -> None:
    expected, model = cut_dead_units(make_tiny_model(family, **EXACT.get(family, {})))
    require_close(logits_of(model), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_halves_one_after_another_are_the_model(family: str) -> None:
    model, windows = cut_unevenly(make_tiny_model(family)), torch.stack([TOKENS[0], TOKENS[0].flip(0)])
    stream = LayerStream.start(model, windows, batch_size=1)
    for index in range(4):
        for half in stream.halves(index):
            stream.run(index, half)
        stream.end_layer(index)
    with torch.no_grad():
        final = torch.cat([adapter_of(model).final_norm(model)(hidden) for hidden in stream.hidden])
        require_close(head_of(model)(final), logits_of(model, windows))


@pytest.mark.parametrize("window", [12, 64])
@pytest.mark.parametrize("family", WINDOWED)
def test_windows_shorter_and_longer_than_the_text(family: str, window: int, tmp_path: Path) -> None:
    """A cut model keeps them, in memory and on disk, with a cache and without."""
    settings = {**WINDOWED[family], **EXACT.get(family, {}), "sliding_window": window}
    whole = make_tiny_model(family, **settings)
    wider = make_tiny_model(family, **{**settings, "sliding_window": 1000})
    assert torch.allclose(logits_of(whole), logits_of(wider)) == (window == 64), "the window counts where it is short"
    expected, model = cut_dead_units(whole)
    require_close(logits_of(model), expected)
    save(model, make_tiny_tokenizer(), tmp_path / "cut")
    loaded, _ = load(str(tmp_path / "cut"), dtype="float32")
    assert torch.equal(logits_of(loaded), logits_of(model))
    with torch.no_grad():
        cache = loaded(TOKENS[:, :20], use_cache=True).past_key_values
        rest = [loaded(TOKENS[:, [at]], past_key_values=cache).logits for at in range(20, 40)]
    require_close(torch.cat(rest, 1), expected[:, 20:])


@pytest.mark.parametrize(
    ("family", "name", "other"),
    [
        ("granite", "embedding_multiplier", 1.0),
        ("granite", "logits_scaling", 1.0),
        ("granite", "residual_multiplier", 1.0),
        ("granite", "attention_multiplier", 1.0),
        ("gemma2", "final_logit_softcapping", 0.5),
        ("gemma2", "attn_logit_softcapping", 0.5),
        ("gemma2", "query_pre_attn_scalar", 4),
        ("gemma3_text", "query_pre_attn_scalar", 4),
        ("gemma4_text", "final_logit_softcapping", 0.5),
        ("gemma4_text", "global_head_dim", 64),
        ("gemma4_text", "num_kv_shared_layers", 2),
        ("gemma4_unified_text", "attention_k_eq_v", False),
        ("phi3", "partial_rotary_factor", 0.5),
        ("glm4", "partial_rotary_factor", 0.25),
        ("qwen3_5_text", "partial_rotary_factor", 0.5),
        ("cohere", "logit_scale", 1.0),
        ("cohere", "use_qk_norm", False),
        ("cohere2", "logit_scale", 1.0),
        ("gpt_neox", "rotary_pct", 0.25),
        ("gpt_neox", "use_parallel_residual", False),
    ],
)
def test_factors_and_caps_survive(family: str, name: str, other: float, tmp_path: Path) -> None:
    """One that a small model has makes a difference, and is there after a cut, saving and loading."""
    model = make_tiny_model(family)
    assert not torch.allclose(logits_of(make_tiny_model(family, **{name: other})), logits_of(model), rtol=1e-3)
    expected, model = cut_dead_units(model)
    save(model, make_tiny_tokenizer(), tmp_path / "cut")
    loaded, _ = load(str(tmp_path / "cut"), dtype="float32")
    require_close(logits_of(loaded), expected)
