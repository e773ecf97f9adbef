"""Cuts to a target: bytes with the cache, milliseconds by a table; and that a ratio's plans are what they were."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.costs import Milliseconds, Targets, bytes_of
from secateur.errors import InputError, OptionError
from secateur.models import layer_widths
from secateur.pruning import PruneConfig, prune
from secateur.pruning.allocation import allocate
from secateur.pruning.importance import LayerScores, PartScores
from secateur.pruning.units import part_shapes

Models = Callable[..., PreTrainedModel]
RECORDED: dict[str, list[int]] = json.loads((Path(__file__).parent / "recorded_plans.json").read_text())
QUICK: dict[str, Any] = {
    "windows": 2,
    "seqlen": 32,
    "own_text": 0,
    "importance": "magnitude",
    "compensate": False,
    "keep_halves": True,
}
CASES: dict[str, dict[str, Any]] = {
    "default": {"ratio": 0.3},
    "wide": {"ratio": 0.2, "keep_halves": True},
    "even": {"ratio": 0.25, "even": True},
    "depth": {"ratio": 0.2, "target": "depth"},
    "share": {"ratio": 0.25, "attention_share": 0.5},
    "limits": {"ratio": 0.25, "min_rate": 0.1, "max_rate": 0.5},
    "uniform": {"ratio": 0.3, "allocation": "uniform"},
    "drop": {"ratio": 0.3, "drop": "mlp=1"},
}


def drawn_scores(model: PreTrainedModel) -> list[LayerScores]:
    generator = torch.Generator().manual_seed(7)
    return [
        {
            part: PartScores(
                torch.arange(shape.units),
                torch.rand(shape.units, generator=generator, dtype=torch.float64).sort().values,
            )
            for part, shape in shapes.items()
        }
        for shapes in part_shapes(model)
    ]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_5_text", "gpt_neox"])
def test_a_ratio_gives_the_recorded_plans(tiny_model: Models, family: str) -> None:
    model = tiny_model(family)
    scores = drawn_scores(model)
    for name, options in CASES.items():
        ladders = allocate(model, PruneConfig(**options), scores, None)
        assert [ladder.removed_units() for ladder in ladders] == RECORDED[f"{family} {name}"], name


def stored_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


@pytest.mark.parametrize(("family", "target"), [("llama", "700kB"), ("gemma3_text", "650kB")])
def test_memory_is_what_the_files_and_the_cache_take(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, family: str, target: str
) -> None:
    model = tiny_model(family, intermediate_size=256)
    result = prune(model, tiny_tokenizer, target_memory=target, context=100, batch=2, **QUICK)
    secateur.save(model, tiny_tokenizer, tmp_path / "cut")
    windows = {"llama": [100] * 4, "gemma3_text": [12, 100, 12, 100]}[family]
    groups = [width.num_key_value_heads for width in layer_widths(model)]
    cache = sum(2 * 16 * heads * seen * 2 * 2 for heads, seen in zip(groups, windows, strict=True))
    header = 8 + int.from_bytes((tmp_path / "cut" / "model.safetensors").read_bytes()[:8], "little")
    taken, wanted = stored_bytes(tmp_path / "cut") - header + cache, float(target[:-2]) * 1000
    reached = result.plan.target
    assert reached is not None and reached.reached == pytest.approx(taken, rel=1e-3)
    assert reached.cache_bytes == cache
    assert 0.97 * wanted <= taken <= wanted
    assert result.plan.ratio == result.plan.reached
    assert json.loads(json.dumps(result.plan.to_dict()))["target"]["asked"] == target


def test_fewer_bits_are_counted_with_their_scales(tiny_model: Models) -> None:
    model = tiny_model()
    sizes = {bits: bytes_of(model, Targets(target_memory="1GB", context=8, bits=bits)).whole for bits in (16, 8, 4)}
    # Weights by their group: of the inputs 64 the queries, keys, values, gate and up, of 128 the output, of 96 down.
    weights = {64: 64 * (128 + 2 * 64 + 2 * 96), 128: 128 * 64, 32: 96 * 64}
    for bits in (4, 8):
        saved = sum(count * (16 - bits - 16 / group) / 8 for group, count in weights.items())
        assert sizes[16] - sizes[bits] == pytest.approx(4 * saved)
    assert bytes_of(model, Targets(target_memory="1GB", context=8)).whole > sizes[16]  # float32


def test_what_is_rounded_in_the_same_pass_is_counted_so(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny_model(intermediate_size=2048).to(torch.bfloat16)
    options = {**QUICK, "importance": "obs", "compensate": True, "target": "mlp"}
    result = prune(model, tiny_tokenizer, target_memory="800kB", context=16, quantize=4, **options)
    secateur.save(model, tiny_tokenizer, tmp_path / "cut")
    reached = result.plan.target
    assert reached is not None and 0.97 * 800_000 <= reached.reached <= 800_000
    header = 8 + int.from_bytes((tmp_path / "cut" / "model.safetensors").read_bytes()[:8], "little")
    taken = stored_bytes(tmp_path / "cut") - header + reached.cache_bytes
    assert reached.reached == pytest.approx(taken, rel=2e-3)
    with pytest.raises(ValueError, match="the target counts what is written"):
        PruneConfig(target_memory="800kB", quantize=4, bits=8)


@pytest.mark.parametrize("even", [False, True])
def test_equal_layers_and_a_search_meet_a_target_too(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, even: bool
) -> None:
    options = {"target_memory": "700kB", "context": 16, "windows": 4, "seqlen": 32, "own_text": 0}
    if even:
        result = prune(tiny_model(), tiny_tokenizer, even=True, importance="magnitude", compensate=False, **options)
        assert len({layer.after for layer in result.plan.layers}) == 1
        reached = result.plan.target
    else:
        options |= {"rounds": 2, "measured_windows": 2, "target_memory": "600kB"}
        reached = secateur.search(tiny_model(), tiny_tokenizer, **options).plan.target
    assert reached is not None and 0.97 * reached.target <= reached.reached <= reached.target


def times(model: PreTrainedModel, target: float, mlp: list[tuple[float, float]]) -> Milliseconds:
    """A made-up table: 1 ms for each group, MLPs by a curve."""
    units = {(layer, part): shape.units for layer, row in enumerate(part_shapes(model)) for part, shape in row.items()}
    curves = {
        name: tuple(mlp) if name[1] == "mlp" else tuple((float(n), float(n)) for n in range(count + 1))
        for name, count in units.items()
    }
    return Milliseconds(units=units, fixed=2.0, target=target, asked="--target-latency", curves=curves)


def test_what_is_not_faster_is_not_cut(tiny_model: Models) -> None:
    model = tiny_model(intermediate_size=128)
    curve = [(0.0, 6.0), (64.0, 6.0), (128.0, 8.0)]  # below 64 no faster, and without it neither
    whole = 2 + 4 * (4 + 8)
    ladders = allocate(
        model, PruneConfig(target_latency="1ms"), drawn_scores(model), None, times(model, 0.7 * whole, curve)
    )
    kept = {(ladder.layer, ladder.part): ladder.shape.units - ladder.removed_units() for ladder in ladders}
    assert all(units >= 64 for (_, part), units in kept.items() if part == "mlp")
    assert whole - sum(ladder.saved_so_far() for ladder in ladders) <= 0.7 * whole


def test_steps_that_save_nothing_are_one_with_the_next(tiny_model: Models) -> None:
    model = tiny_model(intermediate_size=128)
    curve = [(0.0, 0.0), (1.0, 6.0), (64.0, 6.0), (96.0, 8.0), (128.0, 8.0)]
    ladders = allocate(model, PruneConfig(target_latency="1ms"), drawn_scores(model), None, times(model, 40, curve))
    mlp = next(ladder for ladder in ladders if ladder.part == "mlp")
    assert mlp.units == [40, 8, 8, 8, 64]  # 128 to 88, where it begins to be faster; 64 to none at once
    assert all(saved > 0 for saved in mlp.saved) and mlp.prices == sorted(mlp.prices)


def test_the_knapsack_is_no_worse_than_equal_layers_and_near_the_best(tiny_model: Models) -> None:
    model = tiny_model(num_hidden_layers=2, intermediate_size=64)
    config, scores = PruneConfig(target_latency="1ms", keep_halves=True, max_rate=1.0), drawn_scores(model)
    measure = times(model, 18.0, [(0.0, 0.0), (64.0, 8.0)])
    ladders = allocate(model, config, scores, None, measure)
    cost = sum(sum(ladder.costs[: ladder.taken]) for ladder in ladders)
    assert measure.whole - sum(ladder.saved_so_far() for ladder in ladders) <= 18.0
    ways = [range(len(ladder.units) + 1) for ladder in ladders]

    def of(taken: tuple[int, ...]) -> tuple[float, float]:
        chosen = list(zip(ladders, taken, strict=True))
        return sum(sum(x.saved[:n]) for x, n in chosen), sum(sum(x.costs[:n]) for x, n in chosen)

    meeting = [way for way in itertools.product(*ways) if of(way)[0] >= measure.whole - 18.0]
    best = min(of(way)[1] for way in meeting)
    equal = min(of(way)[1] for way in meeting if way[:2] == way[2:])
    assert best <= cost <= equal
    assert cost <= best + max(step for ladder in ladders for step in ladder.costs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_memory": "100kB"},
            r"target_memory= 100kB is beyond what can be reached: at max_rate=0.8 the nearest is",
        ),
        ({"target_memory": "6GB"}, r"the model is at .* as it is, which meets target_memory= 6GB; nothing has to be"),
        ({"target_memory": "1MB", "ratio": 0.2}, "ratio= and target_memory= both say how much is cut; give one"),
        ({"target_memory": "6 GX"}, r"target_memory='6 GX': is no size; write 6GB or 900MB for example"),
        ({"target_memory": "0MB"}, "is no size"),
        ({"target_latency": "25"}, r"target_latency='25': is no time; write 25ms for example"),
        ({"target_throughput": "fast"}, "is no number of tokens a second; write 40 for example"),
        ({"target_memory": "1MB", "bits": 5}, "weights are stored in 16, 8, 4 bits"),
        ({"target_latency": "1ms", "target_device": "H10O"}, "the device 'H10O' is unknown; did you mean H100"),
        ({"target_latency": "1ms", "target_device": "none.json"}, "none.json cannot be read"),
        ({"target_latency": "1ms", "bits": 4}, "engine=.transformers. decodes in the model's own number format"),
        ({"target_memory": "1MB", "allocation": "uniform"}, "allocation=.uniform. shares out a ratio="),
        ({"plan": "p.json", "target_memory": "1MB"}, "the plan decides that; leave out target_memory="),
    ],
)
def test_what_cannot_be_is_one_line(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((InputError, OptionError), match=message) as caught:
        prune(tiny_model(), tiny_tokenizer, **options)
    assert "\n" not in str(caught.value)


def test_a_data_sheet_gives_times(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model(num_hidden_layers=8)
    assert bytes_of(model, Targets()).target == float("inf")
    quick = {name: value for name, value in QUICK.items() if name != "keep_halves"}
    result = prune(model, tiny_tokenizer, target_latency="3ms", target_device="RTX4090", **quick)
    reached = result.plan.target
    assert reached is not None and reached.unit == "ms" and 0.97 * 3 <= reached.reached <= 3
    absent = sum(
        not units for layer in layer_widths(model) for units in (layer.num_attention_heads, layer.intermediate_size)
    )
    assert absent  # 8 small layers are launches, and those end with a half only


def test_a_plan_keeps_its_target(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    first = prune(tiny_model(), tiny_tokenizer, target_memory="600kB", context=16, **QUICK).plan
    file = tmp_path / "pruning_plan.json"
    file.write_text(json.dumps(first.to_dict()))
    quick = {name: value for name, value in QUICK.items() if name != "keep_halves"}
    again = prune(tiny_model(), tiny_tokenizer, plan=str(file), **quick).plan
    assert again.target == first.target and again.ratio == again.reached
    file.write_text(json.dumps({**first.to_dict(), "target": {"option": "x"}}))
    with pytest.raises(InputError, match="its 'target' is wrong at"):
        prune(tiny_model(), tiny_tokenizer, plan=str(file), **quick)
