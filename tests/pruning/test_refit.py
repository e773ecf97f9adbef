"""The re-fit and the order of removal, held against least squares and brute force."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calibration.moments import Gram
from secateur.pruning.obs import block_costs, diagonal_blocks, removal_order


def problem(seed: int, tokens: int = 200, inputs: int = 12, outputs: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Correlated inputs, but not so nearly dependent that float32 moments could not tell them apart.
    mixing = torch.eye(inputs, dtype=torch.float64) + torch.rand(inputs, inputs, generator=generator) / inputs
    x = torch.randn(tokens, inputs, generator=generator, dtype=torch.float64) @ mixing
    return x, torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), kept=st.sets(st.integers(0, 11), min_size=1))
def test_refit_equals_least_squares(seed: int, kept: set[int]) -> None:
    x, weight = problem(seed)
    target = x @ weight.T
    index = torch.tensor(sorted(kept))
    gram = Gram.of_pairs(zip(x.split(50), target.split(50), strict=True))
    fitted = gram.refit(weight, index, damping=1e-12)
    expected = torch.linalg.lstsq(x[:, index], target).solution.T
    torch.testing.assert_close(fitted, expected.float(), rtol=1e-3, atol=1e-3)


def test_refit_with_ridge_equals_augmented_least_squares() -> None:
    x, weight = problem(1)
    target = x @ weight.T + 0.3
    index = torch.tensor([0, 2, 3, 7])
    gram = Gram.of_pairs([(x, target)])
    ridge = 0.1 * x.square().sum(0).mean().sqrt() ** 2
    rows = torch.cat([x[:, index], ridge.sqrt() * torch.eye(4, dtype=torch.float64)])
    goals = torch.cat([target, ridge.sqrt() * weight[:, index].T])
    expected = torch.linalg.lstsq(rows, goals).solution.T
    torch.testing.assert_close(gram.refit(weight, index, damping=0.1), expected.float(), rtol=1e-3, atol=1e-4)


def test_refit_keeps_old_weights_where_the_text_is_silent() -> None:
    x, weight = problem(2)
    x[:, 4] = 0
    gram = Gram.of_pairs([(x, x @ weight.T)])
    fitted = gram.refit(weight, torch.arange(12), damping=1e-6)
    torch.testing.assert_close(fitted[:, 4], weight[:, 4].float())


def squared_error(x: torch.Tensor, weight: torch.Tensor, kept: list[int]) -> float:
    target = x @ weight.T
    solution = torch.linalg.lstsq(x[:, kept], target).solution
    return float((x[:, kept] @ solution - target).square().sum())


@pytest.mark.parametrize("block_size", [1, 3])
def test_cost_of_a_block_is_the_error_after_the_best_refit(block_size: int) -> None:
    x, weight = problem(3)
    inverse = torch.linalg.inv(x.T @ x)
    costs = block_costs(diagonal_blocks(inverse, block_size), weight.T)
    for block, cost in enumerate(costs):
        gone = range(block * block_size, (block + 1) * block_size)
        kept = [column for column in range(12) if column not in gone]
        assert cost.item() == pytest.approx(squared_error(x, weight, kept), rel=1e-6)


@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_errors_along_the_order_are_those_of_least_squares(block_size: int) -> None:
    x, weight = problem(4)
    removals = removal_order(torch.linalg.inv(x.T @ x), weight, block_size)
    gone: list[int] = []
    for block, error in zip(removals.blocks.tolist(), removals.errors, strict=True):
        gone += range(block * block_size, (block + 1) * block_size)
        kept = [column for column in range(12) if column not in gone]
        assert error.item() == pytest.approx(squared_error(x, weight, kept), rel=1e-6)
    assert len(removals.blocks) == 12 // block_size - 1


@pytest.mark.parametrize("block_size", [1, 2])
def test_by_a_metric_the_errors_are_weighed_and_the_refit_is_the_same(block_size: int) -> None:
    x, weight = problem(7)
    generator = torch.Generator().manual_seed(1)
    metric = torch.randn(len(weight), len(weight), generator=generator, dtype=torch.float64).triu()
    metric.diagonal().abs_().add_(0.5)
    removals = removal_order(torch.linalg.inv(x.T @ x), weight, block_size, weights_at=[3], metric=metric)
    gone = [block * block_size + unit for block in removals.blocks[:3].tolist() for unit in range(block_size)]
    kept = [column for column in range(12) if column not in gone]
    target = x @ weight.T
    solution = torch.linalg.lstsq(x[:, kept], target).solution
    error = (x[:, kept] @ solution - target) @ metric.T
    assert removals.errors[2].item() == pytest.approx(float(error.square().sum()), rel=1e-6)
    torch.testing.assert_close(removals.weights[3][:, kept], solution.T.float(), atol=1e-5, rtol=1e-4)
    assert (removals.weights[3][:, gone] == 0).all()


def test_a_metric_decides_which_outputs_count() -> None:
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inverse, weight = torch.linalg.inv(x.T @ x), torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
    minds_the_first = torch.diag(torch.tensor([5.0, 1.0], dtype=torch.float64))
    assert removal_order(inverse, weight, 1).blocks.tolist() == [0]
    assert removal_order(inverse, weight, 1, metric=minds_the_first).blocks.tolist() == [1]


def test_greedy_order_is_near_the_best_of_all_subsets() -> None:
    x, weight = problem(5, inputs=8)
    removals = removal_order(torch.linalg.inv(x.T @ x), weight, 1)
    best = min(squared_error(x, weight, list(kept)) for kept in itertools.combinations(range(8), 5))
    assert removals.errors[2].item() <= 1.5 * best


def test_removing_several_in_a_round_counts_their_joint_error() -> None:
    x, weight = problem(6)
    removals = removal_order(torch.linalg.inv(x.T @ x), weight, 1, steps=3)
    kept = [column for column in range(12) if column not in removals.blocks[:3].tolist()]
    assert removals.errors[2].item() == pytest.approx(squared_error(x, weight, kept), rel=1e-6)
