"""GPTQ: against all levels tried, against rounding to nearest, and zeros that stay."""

import itertools

import pytest
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from torch import Tensor, nn

from secateur.models.rounded import Rounded, note_rounded, packed, rounded_of, unpacked
from secateur.rounding.gptq import descend, error, gptq, refitted_scales
from secateur.rounding.grid import Grid


def hessian(width: int, seed: int, tokens: int = 200) -> Tensor:
    """Second moments of inputs that go together, some of them large."""
    drawn = torch.Generator().manual_seed(seed)
    mixing = torch.eye(width) + 0.5 * torch.randn(width, width, generator=drawn) / width**0.5
    inputs = torch.randn(tokens, width, generator=drawn) @ mixing * torch.rand(width, generator=drawn).mul(2).exp()
    moments = inputs.T @ inputs
    moments.diagonal().mul_(1.01)
    return moments


def matrix(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def test_two_columns_come_to_the_best_of_all_levels() -> None:
    grid, weight, moments = Grid(4, 2), matrix(40, 2, 0), hessian(2, 1)
    scale = grid.usual_scales(weight)
    every = torch.tensor(list(itertools.product(range(-8, 8), repeat=2)), dtype=torch.float32)
    best = torch.stack(
        [error(row.expand(len(every), 2), moments, every, steps.expand(len(every), 1), grid).min()
         for row, steps in zip(weight, scale, strict=True)]
    )  # fmt: skip
    levels, _ = gptq(weight, moments, grid, sweeps=0, scale=scale)
    assert (levels.abs() <= 8).all()
    for _ in range(3):
        descend(weight, moments, levels, scale, weight != 0, grid)
    found = error(weight, moments, levels, scale, grid)
    assert (found >= best * 0.999).all()
    assert (found <= best * 1.001).float().mean() > 0.8
    assert found.sum() < 1.1 * best.sum()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_less_is_lost_than_by_rounding_to_nearest(bits: int, seed: int) -> None:
    grid, weight, moments = Grid(bits, 32, torch.bfloat16), matrix(48, 96, seed), hessian(96, seed + 10)
    usual, best = grid.usual_scales(weight), grid.best_scales(weight, moments.diagonal())
    nearest = [
        error(weight, moments, grid.levels(weight, scale.repeat_interleave(32, 1)), scale, grid).sum()
        for scale in (usual, best)
    ]
    assert nearest[1] < nearest[0]
    plain = error(weight, moments, *gptq(weight, moments, grid, sweeps=0), grid).sum()
    swept = error(weight, moments, *gptq(weight, moments, grid), grid).sum()
    assert swept < plain < nearest[1]


def test_sweeps_never_make_it_worse_and_scales_stay_storable() -> None:
    grid, weight, moments = Grid(4, 32, torch.bfloat16), matrix(48, 96, 7), hessian(96, 8)
    levels, scale = gptq(weight, moments, grid, sweeps=0)
    for _ in range(3):
        before = error(weight, moments, levels, scale, grid)
        scale = refitted_scales(weight, moments, levels, scale, grid)
        between = error(weight, moments, levels, scale, grid)
        descend(weight, moments, levels, scale, weight != 0, grid)
        after = error(weight, moments, levels, scale, grid)
        assert (between <= before * 1.0001).all()
        assert (after <= between * 1.0001).all()
    assert torch.equal(scale, scale.bfloat16().float())


def test_zeros_stay_and_rows_of_zeros_too() -> None:
    grid, weight = Grid(4, 32), matrix(32, 64, 3)
    keep = torch.rand(32, 64, generator=torch.Generator().manual_seed(4)) > 0.5
    keep[0] = False
    keep[1, :32] = False
    levels, scale = gptq(weight * keep, hessian(64, 5), grid)
    assert (levels[~keep] == 0).all()
    assert scale.isfinite().all()
    assert (scale != 0).all()


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 128), (8, 64)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_packed_as_compressed_tensors_packs_and_read_back(bits: int, group: int, dtype: torch.dtype) -> None:
    grid, weight = Grid(bits, group, dtype), matrix(16, 256, 1)
    levels, scale = gptq(weight, hessian(256, 2, 600), grid, sweeps=0)
    note = Rounded(bits, group, scale.to(dtype))
    linear = nn.Linear(256, 16, bias=False, dtype=dtype)
    linear.weight.data = note.weights(levels, dtype)
    note_rounded(linear, note)
    stored = packed(linear)
    assert stored is not None

    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=True, strategy="group", group_size=group)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    # In float32: of 8 bits it finds other levels again where it divides in bfloat16.
    exact = {"weight": note.weights(levels, torch.float32), "weight_scale": note.scale.float()}
    theirs = {**PackedQuantizationCompressor.compress(exact, scheme), "weight_scale": note.scale}
    assert stored.keys() == theirs.keys()
    assert all(torch.equal(stored[name], theirs[name]) for name in stored)
    assert torch.equal(PackedQuantizationCompressor.decompress(theirs, scheme)["weight"], linear.weight)

    again, found = unpacked(stored, bits, dtype)
    assert torch.equal(again, linear.weight)
    assert found.group == group

    linear.weight.data[3, 5] += 1
    assert packed(linear) is None
    assert rounded_of(linear) is note
