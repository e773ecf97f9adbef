"""Thresholds: within the bound, as brute force finds them, the same by any number of processes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.attention import AttentionProfile, TuneConfig, apply, tune
from secateur.attention.blocks import choose, sampled
from secateur.attention.profile import DENSE
from secateur.attention.tuning import CDF_THRESHOLDS, LayerInputs, tune_layer
from secateur.errors import DataError, InputError
from secateur.kernels import block_sparse_attention
from secateur.kernels.grid import BlockGrid
from secateur.models import save

Models = Callable[..., PreTrainedModel]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(" ".join(f"line {number}: {number * number % 97} of {number}." for number in range(400)))
    return file


def attended(seed: int, samples: int = 2, length: int = 160) -> LayerInputs:
    """Heads of several kinds: flat, peaked on a few keys, and local."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(samples, heads, length, 16, generator=generator) for heads in (4, 2, 2))
    query[:, 1] *= 4
    query[:, 2] *= 0.05
    value[:, 1] += 1
    return LayerInputs(query, key, value, 0.25)


def errors_of(inputs: LayerInputs, cdf: torch.Tensor, pv: torch.Tensor | None, grid: BlockGrid) -> torch.Tensor:
    """The relative l1 error of each head in the worst sample, by computing it."""
    prediction = sampled(inputs.query, inputs.key, grid, inputs.scale)
    tensors = (inputs.query, inputs.key, inputs.value)
    options: dict[str, Any] = {"query_block": 16, "key_block": 16, "backend": "reference"}
    blocks = choose(prediction, grid, cdf)
    sparse = block_sparse_attention(*tensors, blocks, True, inputs.scale, pv, **options)
    dense = block_sparse_attention(*tensors, grid.visible(cdf.device), True, inputs.scale, **options)
    return ((sparse - dense).abs().sum((2, 3)) / dense.abs().sum((2, 3))).amax(0)


@pytest.mark.parametrize("seed", range(3))
def test_the_lowest_threshold_within_the_bound(seed: int, small_blocks: dict[str, int]) -> None:
    inputs, grid = attended(seed), BlockGrid(160, 160, True, 16, 16)
    profile = tune_layer(inputs, TuneConfig(l1=0.1, pv_l1=0.12, price=0, **small_blocks))
    found = errors_of(inputs, profile.cdfthreshd, None, grid)
    assert (found <= 0.1 + 1e-5).all()
    both = errors_of(inputs, profile.cdfthreshd, profile.pvthreshd, grid)
    torch.testing.assert_close(both, profile.error, rtol=1e-3, atol=1e-5)
    assert (both <= 0.12 + 1e-5).all()
    assert (profile.sparsity > 0.1).any()
    for head in range(4):
        if profile.cdfthreshd[head] == DENSE:
            assert profile.sparsity[head] == 0
            continue
        below = CDF_THRESHOLDS[profile.cdfthreshd[head] > CDF_THRESHOLDS]
        if len(below):
            lower = profile.cdfthreshd.clone()
            lower[head] = below[-1]
            assert errors_of(inputs, lower, None, grid)[head] > 0.1


def test_what_is_left_out_is_worth_its_error(small_blocks: dict[str, int]) -> None:
    inputs, grid, price = attended(2), BlockGrid(160, 160, True, 16, 16), 5.0
    config = TuneConfig(l1=0.3, pv_l1=0.4, price=price, **small_blocks)
    profile = tune_layer(inputs, config)
    prediction = sampled(inputs.query, inputs.key, grid, inputs.scale)
    tensors = (inputs.query, inputs.key, inputs.value)
    options: dict[str, Any] = {"query_block": 16, "key_block": 16, "backend": "reference"}
    dense = block_sparse_attention(*tensors, grid.visible(inputs.query.device), True, inputs.scale, **options)
    worth, within = [], []
    for threshold in CDF_THRESHOLDS.tolist():
        blocks = choose(prediction, grid, threshold)
        lost = block_sparse_attention(*tensors, blocks, True, inputs.scale, **options) - dense
        squares = (lost.square().sum((2, 3)) / dense.square().sum((2, 3))).mean(0)
        worth.append(grid.sparsity(blocks).mean(0) - price * squares)
        within.append(errors_of(inputs, torch.full((4,), threshold), None, grid) <= 0.3)
    best = torch.stack(worth).masked_fill(~torch.stack(within), -torch.inf).argmax(0)
    tuned = profile.cdfthreshd != DENSE
    assert tuned.any()
    assert torch.equal(profile.cdfthreshd[tuned], CDF_THRESHOLDS[best][tuned])
    assert (profile.sparsity < tune_layer(inputs, config.model_copy(update={"price": 0.0})).sparsity).any()


def test_heads_that_gain_little_stay_dense(small_blocks: dict[str, int]) -> None:
    profile = tune_layer(attended(0), TuneConfig(l1=1e-4, pv_l1=2e-4, **small_blocks))
    assert (profile.cdfthreshd[profile.sparsity == 0] == DENSE).all()
    assert (profile.sparsity == 0).any()
    assert ((profile.sparsity == 0) | (profile.sparsity >= 0.1)).all()


@pytest.mark.parametrize("metric", ["cosine", "rmse"])
def test_other_metrics(metric: str, small_blocks: dict[str, int]) -> None:
    loose, tight = (
        tune_layer(attended(1), TuneConfig(metric=metric, l1=bound, pv_l1=1.2 * bound, **small_blocks))  # type: ignore[arg-type]
        for bound in (0.2, 0.02)
    )
    assert (loose.sparsity >= tight.sparsity).all()
    assert (loose.error <= 0.24).all()


def test_a_profile_goes_to_disk_and_into_a_model(
    tiny_model: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    text: Path,
    tmp_path: Path,
    small_blocks: dict[str, int],
) -> None:
    model = tiny_model()
    options = {"data": str(text), "samples": 2, "seqlen": 256, "l1": 0.3, "pv_l1": 0.4, **small_blocks}
    before = [parameter.clone() for parameter in model.parameters()]
    profile = tune(model, tiny_tokenizer, layers="1:3", **options)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert sorted(profile.layers) == [1, 2]
    assert profile.sparsity > 0.1
    profile.save(tmp_path / "profile.safetensors")
    again = AttentionProfile.load(tmp_path / "profile.safetensors")
    assert again.to_dict() == profile.to_dict()
    assert [layer["layer"] for layer in json.loads(json.dumps(again.to_dict()))["layers"]] == [1, 2]
    ids = tiny_tokenizer(text.read_text(), return_tensors="pt").input_ids[:, :256]
    dense = model(ids).logits
    applied = apply(model, again)
    with torch.no_grad():
        cosine = torch.nn.functional.cosine_similarity(model(ids).logits.flatten(), dense.flatten(), dim=0)
    assert cosine > 0.9
    assert applied.sparsity > 0.1
    assert sorted(applied.layers) == [1, 2]


def test_the_same_model_in_another_format_is_taken_and_another_refused(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, text: Path, small_blocks: dict[str, int]
) -> None:
    profile = tune(tiny_model(), tiny_tokenizer, data=str(text), samples=1, seqlen=256, **small_blocks)
    apply(tiny_model().bfloat16(), profile)
    apply(tiny_model().half(), profile)
    message = "the profile was tuned on another model"
    with pytest.raises(InputError, match=message):
        apply(tiny_model(seed=1), profile)
    with pytest.raises(InputError, match=message):
        apply(tiny_model("qwen2", num_hidden_layers=2), profile)


@pytest.mark.parametrize(
    "change",
    [
        {"cdfthreshd": torch.tensor([float("nan")] * 8)},
        {"pvthreshd": torch.full((8,), -1.0)},
        {"sparsity": torch.ones(8, dtype=torch.int64)},
        {"error": torch.ones(3)},
    ],
)
def test_a_damaged_profile(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, text: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    profile = tune(tiny_model(), tiny_tokenizer, data=str(text), samples=1, seqlen=256)
    layers = {index: replace(layer, **change) for index, layer in profile.layers.items()}
    replace(profile, layers=layers).save(tmp_path / "damaged")
    with pytest.raises(InputError, match="is a damaged attention profile; tune it anew"):
        AttentionProfile.load(tmp_path / "damaged")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seqlen": 200}, InputError, "windows below 256 tokens have too few blocks"),
        ({"pv_l1": 0.05}, InputError, "pv_l1 is 0.05 and l1 0.06: pv_l1 bounds the error of both and must be larger"),
        ({"layers": "2:9"}, InputError, 'layers="2:9" is outside the model: it has layers 0 to 3'),
        ({"seqlen": 16000}, DataError, "give a longer text or a smaller seqlen="),
        ({"seqlen": 20000}, InputError, "windows of 20,000 tokens are longer than the 16,384 that the model takes"),
    ],
)
def test_bad_input(
    tiny_model: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    text: Path,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        tune(tiny_model(max_position_embeddings=16384), tiny_tokenizer, data=str(text), **options)


def test_layers_with_a_sliding_window_are_not_tuned(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, text: Path
) -> None:
    with pytest.raises(InputError, match="all of these layers have a sliding window, linear attention or none"):
        tune(tiny_model("mistral", sliding_window=64), tiny_tokenizer, data=str(text), seqlen=256)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(
    tiny_model: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    text: Path,
    private_cache: Path,
    tmp_path: Path,
    two_processes: Callable[..., Any],
) -> None:
    save(tiny_model(), tiny_tokenizer, tmp_path / "model")
    arguments = ["attention", "tune", str(tmp_path / "model"), "--data", str(text), "--dtype", "float32"]
    arguments += ["--seqlen", "256", "--samples", "2", "--l1", "0.3", "--pv-l1", "0.4"]
    arguments += ["--query-block", "16", "--key-block", "16", "-o"]
    for count, name in ((1, "one"), (2, "two")):
        for process in two_processes("-m", "secateur", *arguments, tmp_path / name, count=count):
            assert process.returncode == 0, process.stderr
    one, other = (load_file(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
