"""What cut layers keep is a multiple of --channel-multiple, and divides by --tensor-parallel."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

from secateur.cli.main import app
from secateur.errors import InputError
from secateur.models import layer_widths
from secateur.pruning import LayerImportance, PruneConfig, prune
from secateur.pruning.allocation import allocate
from secateur.pruning.importance import LayerScores, magnitude_scores
from secateur.pruning.ladders import units_removed
from secateur.pruning.multiples import require_multiples, usual_channel_multiple
from secateur.pruning.plan import PruningPlan, warn_of_miss
from secateur.pruning.search import SearchConfig, search
from secateur.pruning.units import PartShape, part_shapes
from secateur.runs.recipe import parse_recipe
from tiny import make_tiny_model
from uneven import cut_unevenly

QUICK: dict[str, Any] = {"samples": 4, "seqlen": 32, "batch_size": 2, "own_text": 0.0}
Models = Callable[..., PreTrainedModel]


@functools.cache
def scored(width: int) -> tuple[PreTrainedModel, list[LayerScores]]:
    """A model that no test changes, with 4 groups and so many channels in a layer, and what its units cost."""
    model = make_tiny_model(intermediate_size=width, seed=width)
    return model, magnitude_scores(model)


def kept_by(width: int, config: PruneConfig) -> list[tuple[int, int]]:
    """The groups and channels that an allocation leaves each layer."""
    model, scores = scored(width)
    ladders = allocate(model, config, scores, LayerImportance("removal", [3.0, 0.1, 0.2, 1.0]).importance)
    gone = units_removed(ladders)
    return [(4 - gone.get((layer, "attention"), 0), width - gone.get((layer, "mlp"), 0)) for layer in range(4)]


multiples = st.sampled_from([None, 1, 3, 8, 16, 24, 32, 64, 128])


@settings(max_examples=60, deadline=None)
@given(
    width=st.sampled_from([96, 200, 256, 1024]),
    multiple=multiples,
    cards=st.sampled_from([1, 2, 4]),
    ratio=st.floats(0.02, 0.3),
    allocation=st.sampled_from(["global", "inverse", "proportional", "uniform"]),
    target=st.sampled_from(["both", "mlp"]),
    share=st.sampled_from([None, 0.2]),
    even=st.booleans(),
    keep_halves=st.booleans(),
)
def test_what_is_kept_divides(
    width: int, multiple: int | None, cards: int, ratio: float, keep_halves: bool, **options: Any
) -> None:
    config = PruneConfig(
        channel_multiple=multiple,
        tensor_parallel=cards,
        ratio=ratio,
        max_rate=1.0,
        attention_share=options.pop("share"),
        keep_halves=keep_halves,
        **options,
    )
    try:
        require_multiples(config, part_shapes(scored(width)[0]), config.even)
        kept = kept_by(width, config)
    except InputError as error:  # a ratio beyond what whole multiples let go
        assert "larger" in str(error) or "more than can" in str(error) or "lower it" in str(error)
        return
    expected = multiple or (32 if width >= 1024 else 8)
    for groups, channels in kept:
        assert groups % cards == channels % cards == 0
        assert (groups and channels) or not keep_halves
        assert channels == width or channels % math.lcm(expected, cards) == 0
    if config.even:
        assert len(set(kept)) == 1


@settings(max_examples=20, deadline=None)
@given(multiple=multiples, ratio=st.floats(0.05, 0.4), target=st.sampled_from(["both", "mlp"]))
def test_a_ratio_is_met_as_nearly_as_multiples_allow(multiple: int | None, ratio: float, target: Any) -> None:
    model, _ = scored(1024)
    kept = kept_by(1024, PruneConfig(ratio=ratio, channel_multiple=multiple, target=target, max_rate=1.0))
    parameters = sum(weight.numel() for weight in model.parameters())
    channel, group = 3 * 64, 64 * (32 + 16 + 16 + 32)
    gone = sum((4 - groups) * group + (1024 - channels) * channel for groups, channels in kept)
    assert abs(gone - ratio * parameters) <= max((multiple or 32) * channel, group) / 2 + 1


@pytest.mark.parametrize(("width", "expected"), [(4, 1), (8, 1), (9, 8), (1023, 8), (1024, 32), (14336, 32)])
def test_the_multiple_follows_the_widest_layer(width: int, expected: int) -> None:
    shapes = [{"attention": PartShape(4, 32, 1), "mlp": PartShape(units, 1, 1)} for units in (width, 1)]
    assert usual_channel_multiple(shapes) == expected


def test_a_width_that_is_no_multiple_comes_to_one(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(intermediate_size=100)
    options = {"channel_multiple": 32, "target": "mlp", "importance": "magnitude", "keep_halves": True}
    prune(model, tiny_tokenizer, ratio=0.1, **options, **QUICK)
    widths = {width.intermediate_size for width in layer_widths(model)}
    assert widths <= {100, 96, 64, 32} and len(widths) > 1


def test_equal_layers_are_cut_to_what_cards_share(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(hidden_size=96, num_attention_heads=6, num_key_value_heads=3, intermediate_size=768)
    options = {"ratio": 0.25, "importance": "magnitude", "tensor_parallel": 2, **QUICK}
    with pytest.raises(InputError, match=r"layer 0 has 3 GQA groups, and the 2 cards .* even=True cuts all layers"):
        prune(model, tiny_tokenizer, **options)
    with pytest.raises(InputError, match=r"cannot share them equally$"):
        prune(model, tiny_tokenizer, target="mlp", even=True, **options)
    prune(model, tiny_tokenizer, even=True, channel_multiple=64, **options)
    (width,) = set(layer_widths(model))
    assert width.num_key_value_heads == 2 and width.num_attention_heads == 4
    assert width.intermediate_size % 64 == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"channel_multiple": 128},
            "layer 0 has 96 MLP channels and cannot keep a multiple of channel_m.*128;",
        ),
        ({"channel_multiple": 32, "tensor_parallel": 4, "freeze": [0]}, None),
        ({"channel_multiple": 25, "tensor_parallel": 4}, "channel_multiple=25 with tensor_parallel=4; lower it"),
        ({"tensor_parallel": 8}, "layer 0 has 4 GQA groups, fewer than the 8 cards of tensor_parallel="),
        ({"tensor_parallel": 3}, "layer 0 has 4 GQA groups, and the 3 cards of tensor_parallel= cannot share them"),
        (
            {"channel_multiple": 96, "target": "mlp", "keep_halves": True},
            "a layer keeps, what channel_multiple= and tensor_parallel= ask",
        ),
        ({"channel_multiple": 10**30, "target": "attention", "ratio": 0.05}, None),
    ],
    ids=str,
)
def test_what_a_layer_cannot_keep_is_said(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], message: str | None
) -> None:
    given = {"ratio": 0.1, **QUICK, **options}
    if message is None:
        prune(tiny_model(), tiny_tokenizer, importance="magnitude", compensate=False, **given)
        return
    with pytest.raises(InputError, match=message) as caught:
        prune(tiny_model(), tiny_tokenizer, **given)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        search(tiny_model(), tiny_tokenizer, **given)


def test_even_is_advised_where_it_can_be_had(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    options = {"ratio": 0.1, "tensor_parallel": 3, **QUICK}
    with pytest.raises(InputError, match="cannot share them equally; even=True cuts"):
        prune(tiny_model(), tiny_tokenizer, **options)
    # search has no such option, and prune refuses it for layers that differ.
    with pytest.raises(InputError, match=r"cannot share them equally$"):
        search(tiny_model(), tiny_tokenizer, **options)
    with pytest.raises(InputError, match=r"cannot share them equally$"):
        prune(cut_unevenly(tiny_model()), tiny_tokenizer, **options)


@pytest.mark.parametrize("value", [0, -8, "wide"])
@pytest.mark.parametrize("option", ["channel_multiple", "tensor_parallel"])
def test_what_is_no_number_of_units(option: str, value: object, tmp_path: Path) -> None:
    for config in (PruneConfig, SearchConfig):
        with pytest.raises(ValueError, match=option):
            config(**{option: value})
    flag = "--" + option.replace("_", "-")
    result = CliRunner().invoke(app, ["prune", "smollm2-135m", "-o", str(tmp_path / "out"), f"{flag}={value}"])
    assert result.exit_code == 2
    assert f"{flag} {value}: input should be" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ({"intermediate_size": 40}, {"channel_multiple": 16}, "layer 1 is left 40 MLP channels, no multiple of chan"),
        ({"intermediate_size": 40}, {"channel_multiple": 8, "tensor_parallel": 4}, None),
        ({"intermediate_size": 41}, {"tensor_parallel": 2}, "layer 1 is left 41 MLP channels, and the 2 cards"),
        ({"num_key_value_heads": 3}, {"tensor_parallel": 2}, "layer 1 is left 3 GQA groups, and the 2 cards"),
        ({"num_key_value_heads": 3}, {"channel_multiple": 64}, None),
        ({"num_key_value_heads": 2}, {"tensor_parallel": 3}, "layer 0 is left 4 GQA groups, and the 3 cards"),
    ],
    ids=str,
)
def test_a_plan_is_held_against_both(
    tiny_model: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    layer: dict[str, Any],
    options: dict[str, Any],
    message: str | None,
) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"layers": [{"layer": 1, **layer}]}))
    given = {"plan": str(tmp_path / "plan.json"), "importance": "magnitude", "compensate": False, **QUICK, **options}
    if message is None:
        prune(tiny_model(), tiny_tokenizer, **given)
        return
    with pytest.raises(InputError, match=message) as caught:
        prune(tiny_model(), tiny_tokenizer, **given)
    assert str(caught.value).startswith(str(tmp_path / "plan.json"))


def test_a_search_keeps_multiples(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    found = search(
        tiny_model(), tiny_tokenizer, ratio=0.2, rounds=3, channel_multiple=12, tensor_parallel=2, measured=4, **QUICK
    )
    kept = [layer.after for layer in found.plan.layers]
    assert all(width.num_key_value_heads % 2 == 0 and width.intermediate_size % 12 == 0 for width in kept)
    assert {width.intermediate_size for width in kept} != {96}


def test_the_search_of_a_recipe_decides() -> None:
    with pytest.raises(InputError, match=r"the search decides prune\.channel_multiple"):
        parse_recipe("model: m\nsearch: {ratio: 0.2}\nprune: {channel_multiple: 64}\n")
    recipe = parse_recipe("model: m\nsearch: {channel_multiple: 64, tensor_parallel: 2}\n")
    assert recipe.search.channel_multiple == 64  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"channel_multiple": 256, "target": "mlp"},
            "the steps of channel_multiple=256 are large in this model, or m",
        ),
        (
            {"tensor_parallel": 4, "target": "both"},
            "the steps of tensor_parallel=4 are large in this model, or whole G",
        ),
        ({"tensor_parallel": 1, "target": "both"}, "whole GQA groups are large in this model, or max_rate="),
        ({"target": "mlp"}, "max_rate=, target= or"),
    ],
)
def test_a_missed_ratio_is_put_down_to_its_steps_first(
    settings: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_miss(PruningPlan(0.25, 1000, 800, 16, 2, [], settings))
    (said,) = caplog.messages
    assert said.startswith(f"Removed 0.200 of all parameters, not 0.250: {message}")
