"""SparseGPT and ADMM against brute force, quotas against their numbers."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import InputError
from secateur.sparsity import Pattern
from secateur.sparsity.admm import ScaledHessian, admm
from secateur.sparsity.quota import Quota, kth_lowest
from secateur.sparsity.scores import wanda
from secateur.sparsity.sparsegpt import sparsegpt


def problem(seed: int, rows: int = 6, columns: int = 8) -> tuple[Tensor, Tensor]:
    """A weight matrix and damped second moments of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(300, columns, generator=generator, dtype=torch.float64) @ mixing
    hessian = inputs.T @ inputs
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), hessian


def scaled(hessian: Tensor) -> ScaledHessian:
    return ScaledHessian.of(hessian.float(), torch.zeros(len(hessian)))


def loss(weight: Tensor, sparse: Tensor, hessian: Tensor) -> Tensor:
    """‖X(V − W)ᵀ‖² of each row, (rows,)."""
    change = sparse.double() - weight
    return ((change @ hessian) * change).sum(1)


def best_on(keep: Tensor, weight: Tensor, hessian: Tensor) -> Tensor:
    """The exact least squares solution of one row on a given support."""
    solution = torch.zeros_like(weight)
    solution[keep] = torch.linalg.solve(hessian[keep][:, keep], (hessian @ weight)[keep])
    return solution


def brute_force(weight: Tensor, hessian: Tensor, zeros: int) -> Tensor:
    """The least loss of each row over all supports, (rows,)."""
    columns = len(hessian)
    best = torch.full((len(weight),), torch.inf, dtype=torch.float64)
    for gone in itertools.combinations(range(columns), zeros):
        keep = torch.ones(columns, dtype=torch.bool)
        keep[list(gone)] = False
        solutions = torch.stack([best_on(keep, row, hessian) for row in weight])
        best = torch.minimum(best, loss(weight, solutions, hessian))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_admm_is_near_the_best_of_all_supports_and_solves_its_own(seed: int) -> None:
    weight, hessian = problem(seed)
    quota = Quota(6, 8, 6 * 4)
    sparse = admm(weight, scaled(hessian), hessian @ weight.T, quota, polishing=8)
    assert int((sparse == 0).sum()) == 24
    expected = torch.stack([best_on(row != 0, old, hessian) for row, old in zip(sparse, weight, strict=True)])
    torch.testing.assert_close(sparse.double(), expected, rtol=2e-3, atol=2e-3)
    masked_only = weight * quota.keep(wanda(weight, hessian.diagonal().sqrt()))
    best = brute_force(weight, hessian, 4)
    found, plain = loss(weight, sparse, hessian), loss(weight, masked_only, hessian)
    assert (found >= best * 0.999).all()
    assert found.sum() - best.sum() < 0.35 * (plain.sum() - best.sum())


@pytest.mark.parametrize("seed", range(5))
def test_sparsegpt_equals_obs_column_by_column(seed: int) -> None:
    """In blocks of one column, the errors left are those of the exact solution over the columns not yet passed."""
    weight, hessian = problem(seed)
    sparse = sparsegpt(weight, hessian, Quota(6, 8, 24), block_size=8)
    assert int((sparse == 0).sum()) == 24
    expected = weight.clone()
    for column in range(8):
        rest = torch.arange(column, 8)
        inverse = torch.linalg.inv(hessian[rest][:, rest])
        gone = sparse[:, column] == 0
        error = torch.where(gone, expected[:, column], 0.0)
        expected[:, rest] -= error[:, None] * inverse[0] / inverse[0, 0]
    torch.testing.assert_close(sparse.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_admm_leaves_less_than_the_others(seed: int) -> None:
    weight, hessian = problem(seed, rows=16, columns=32)
    quota = Quota(16, 32, 256)
    masked = weight * quota.keep(wanda(weight, hessian.diagonal().sqrt()))
    refitted, *others = (
        loss(weight, sparse, hessian).sum()
        for sparse in (
            admm(weight, scaled(hessian), hessian @ weight.T, quota),
            sparsegpt(weight, hessian, quota),
            masked,
        )
    )
    assert refitted < 0.6 * min(others)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 7), columns=st.integers(1, 9), share=st.floats(0, 1), per_row=st.booleans(), data=st.data())
def test_a_quota_leaves_exactly_its_zeros(
    rows: int, columns: int, share: float, per_row: bool, data: st.DataObject
) -> None:
    quota = Quota(rows, columns, round(share * rows * columns), per_row=per_row)
    scores = torch.rand(rows, columns, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    keep = quota.keep(scores)
    assert int((~keep).sum()) == quota.zeros
    for row in range(rows):
        kept, gone = scores[row][keep[row]], scores[row][~keep[row]]
        if per_row and len(kept) and len(gone):
            assert kept.min() >= gone.max()


def test_one_ranking_counts_rows_by_their_weights() -> None:
    scores = torch.tensor([[1.0, 4.0], [2.0, 3.0]])
    quota = Quota(2, 2, 2, per_row=False)
    assert quota.keep(scores).tolist() == [[False, True], [False, True]]
    weighted = replace(quota, row_weights=torch.tensor([[10.0], [1.0]]))
    assert weighted.keep(scores).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(("kept", "group"), [(2, 4), (1, 4), (4, 8), (2, 3), (5, 6)])
@pytest.mark.parametrize("method", ["mask", "sparsegpt", "admm"])
def test_every_group_of_a_pattern_has_its_zeros(kept: int, group: int, method: str) -> None:
    columns = 24
    weight, hessian = problem(kept, rows=5, columns=columns)
    quota = Quota.of_pattern(5, columns, Pattern(kept, group))
    sparse = {
        "mask": lambda: weight * quota.keep(weight.abs()),
        "sparsegpt": lambda: sparsegpt(weight, hessian, quota, block_size=9),
        "admm": lambda: admm(weight, scaled(hessian), hessian @ weight.T, quota),
    }[method]()
    assert ((sparse.view(5, -1, group) == 0).sum(-1) == group - kept).all()
    assert quota.zeros == int((sparse == 0).sum())


@pytest.mark.parametrize("text", ["2:2", "0:4", "3:2", "half", "2/4", ":4"])
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no pattern; write N:M"):
        Pattern.parse(text)


def test_a_pattern_must_divide_the_width() -> None:
    with pytest.raises(InputError, match=r"the pattern 2:7 does not divide the input width 24 of down_proj"):
        Quota.of_pattern(3, 24, Pattern(2, 7), "down_proj")


@pytest.mark.parametrize("kind", ["normal", "few values", "sorted"])
@pytest.mark.parametrize("k", [1, 1000, 150_001, 299_999, 300_000])
def test_the_kth_lowest_of_many_is_that_of_a_sort(kind: str, k: int) -> None:
    scores = torch.randn(300_000, generator=torch.Generator().manual_seed(1)).abs()
    scores = {"normal": scores, "few values": (3 * scores).round(), "sorted": scores.sort().values}[kind]
    assert kth_lowest(scores, k) == scores.sort().values[k - 1]
