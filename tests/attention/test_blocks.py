"""Which blocks are chosen, and what leaving the others out costs, against brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.attention.blocks import Prediction, choose, mean_similarity, sampled, sampled_queries
from secateur.attention.curve import Metric, pv_curve, threshold_curve
from secateur.kernels import block_sparse_attention
from secateur.kernels.grid import BlockGrid

CPU = torch.device("cpu")
PREDICTORS = {"sampled": sampled, "mean-similarity": mean_similarity}
METRICS: tuple[Metric, ...] = ("l1", "rmse", "cosine")


def tensors(seed: int, queries: int, keys: int, batch: int = 1, heads: int = 4, kv_heads: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, queries, 16), (batch, kv_heads, keys, 16), (batch, kv_heads, keys, 16)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def dense_mass(query: Tensor, key: Tensor, grid: BlockGrid, scale: float) -> Tensor:
    """Each query's softmax mass by key block, (batch, heads, queries, columns)."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~grid.sees(0, grid.queries, CPU), -torch.inf)
    shares = torch.nn.functional.pad(scores.softmax(-1), (0, -grid.keys % grid.key_block))
    return shares.unflatten(-1, (-1, grid.key_block)).sum(-1)


grids = st.builds(
    lambda queries, before, causal: BlockGrid(queries, queries + before, causal, 64, 32),
    st.integers(1, 200),
    st.integers(0, 90),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(grid=grids)
def test_the_grid_against_single_pairs(grid: BlockGrid) -> None:
    pairs = torch.zeros(grid.rows * 64, grid.columns * 32, dtype=torch.bool)
    pairs[: grid.queries, : grid.keys] = grid.sees(0, grid.queries, CPU)
    blocks = pairs.view(grid.rows, 64, grid.columns, 32).transpose(1, 2).flatten(2)
    assert torch.equal(grid.visible(CPU), blocks.any(-1))
    rows = torch.zeros(grid.rows, 64, dtype=torch.bool)
    rows.view(-1)[: grid.queries] = True
    of_real_queries = (blocks.unflatten(-1, (64, 32)) | ~rows[:, None, :, None]).flatten(2).all(-1)
    assert torch.equal(grid.whole(CPU), of_real_queries)
    if grid.causal:
        own = torch.arange(grid.queries) + grid.offset
        assert grid.fixed(CPU)[torch.arange(grid.queries) // 64, own // 32].all()
    assert grid.fixed(CPU)[:, 0].all()


@settings(max_examples=20, deadline=None)
@given(grid=grids, seed=st.integers(0, 99))
def test_sampled_is_the_softmax_of_some_queries(grid: BlockGrid, seed: int) -> None:
    query, key, _ = tensors(seed, grid.queries, grid.keys, batch=2)
    found = sampled(query, key, grid, 0.3).mass
    every = dense_mass(query, key, grid, 0.3)
    positions = sampled_queries(grid, 16, CPU)
    expected = torch.stack([every[:, :, row].mean(2) for row in positions], 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert ((positions >= 0) & (positions < grid.queries)).all()


def test_sampled_looks_at_one_query_in_sixteen() -> None:
    positions = sampled_queries(BlockGrid(300, 300, True), 16, CPU)
    assert positions.shape == (3, 8)
    assert (positions[0].diff() == 16).all()
    assert len(positions.unique()) == 24


def test_sampled_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, _ = tensors(0, 300, 300)
    grid = BlockGrid(300, 300, True)
    whole = sampled(query, key, grid, 1.0).mass
    monkeypatch.setattr("secateur.attention.blocks.SAMPLED_SCORES_AT_ONCE", 1)
    torch.testing.assert_close(sampled(query, key, grid, 1.0).mass, whole)


@settings(max_examples=20, deadline=None)
@given(grid=grids, seed=st.integers(0, 99), threshold=st.floats(-1, 1))
def test_mean_similarity_keeps_blocks_of_unlike_tokens(grid: BlockGrid, seed: int, threshold: float) -> None:
    query, key, _ = tensors(seed, grid.queries, grid.keys)
    prediction = mean_similarity(query, key, grid, 0.3, simthreshd=threshold)
    key = key - key.mean(2, keepdim=True)
    for head in range(4):
        for column in range(grid.columns):
            block = torch.nn.functional.normalize(key[0, head // 2, column * 32 : (column + 1) * 32], dim=-1)
            if (block @ block.T).mean() < threshold - 1e-4:
                assert torch.equal(prediction.required[0, head, :, column], grid.visible(CPU)[:, column])
    totals = prediction.mass.sum(-1)
    assert (((totals - 1).abs() < 1e-4) | (totals == 0)).all()
    assert not prediction.mass.masked_select(~grid.visible(CPU)).any()


@settings(max_examples=30, deadline=None)
@given(grid=grids, seed=st.integers(0, 99), cdfthreshd=st.floats(0, 1.1), topk=st.floats(0.01, 1))
def test_choice_is_the_shortest_that_covers(grid: BlockGrid, seed: int, cdfthreshd: float, topk: float) -> None:
    query, key, _ = tensors(seed, grid.queries, grid.keys)
    prediction = sampled(query, key, grid, 1.0)
    by_mass = choose(prediction, grid, cdfthreshd=cdfthreshd)
    by_count = choose(prediction, grid, topk=topk)
    visible = grid.visible(CPU)
    required = prediction.required.expand_as(by_mass)
    for chosen in (by_mass, by_count):
        assert (chosen >= required).all()
        assert (chosen <= visible).all()
        worst = prediction.mass.masked_fill(~chosen | required, 2).amin(-1)
        left = prediction.mass.masked_fill(chosen | ~visible, -1).amax(-1)
        assert (worst >= left).all()
    covered = (prediction.mass * by_mass).sum(-1)
    complete = (by_mass == visible).all(-1)
    assert (complete | (covered >= cdfthreshd - 1e-5)).all()
    limit = (visible.sum(-1) * topk).ceil()
    assert (by_count.sum(-1) <= torch.maximum(limit, required.sum(-1))).all()
    both = choose(prediction, grid, cdfthreshd=cdfthreshd, topk=topk)
    assert torch.equal(both, by_mass & by_count)


def test_a_threshold_for_each_head() -> None:
    query, key, _ = tensors(0, 256, 256)
    grid = BlockGrid(256, 256, True, 64, 32)
    prediction = sampled(query, key, grid, 0.1)
    chosen = choose(prediction, grid, cdfthreshd=torch.tensor([0.5, 0.9, 2.0, 0.0]))
    for head, threshold in enumerate((0.5, 0.9, 2.0, 0.0)):
        assert torch.equal(chosen[:, head], choose(prediction, grid, cdfthreshd=threshold)[:, head])
    assert torch.equal(chosen[0, 2], grid.visible(CPU))
    assert torch.equal(chosen[0, 3], prediction.required.expand_as(chosen)[0, 3])


def relative_errors(output: Tensor, dense: Tensor) -> dict[str, Tensor]:
    """Of each head, over queries and width, of the worst sample."""
    output, dense = output.double().flatten(2), dense.double().flatten(2)
    errors = {
        "l1": (output - dense).abs().sum(2) / dense.abs().sum(2),
        "rmse": (output - dense).norm(dim=2) / dense.norm(dim=2),
        "cosine": 1 - torch.nn.functional.cosine_similarity(output, dense, dim=2),
    }
    return {name: error.amax(0) for name, error in errors.items()}


@settings(max_examples=15, deadline=None)
@given(grid=grids, seed=st.integers(0, 99), name=st.sampled_from(sorted(PREDICTORS)), small=st.booleans())
def test_the_curve_is_what_brute_force_finds(grid: BlockGrid, seed: int, name: str, small: bool) -> None:
    query, key, value = tensors(seed, grid.queries, grid.keys, batch=2)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr("secateur.attention.curve.PARTS_AT_ONCE", 1)
        thresholds = torch.tensor([0.0, 0.3, 0.6, 0.9, 0.99, 2.0])
        prediction = PREDICTORS[name](query, key, grid, 0.5)
        curves = {
            metric: threshold_curve(query, key, value, prediction, grid, 0.5, thresholds, metric) for metric in METRICS
        }
    options = {"query_block": 64, "key_block": 32, "backend": "reference"}
    everything = torch.ones(grid.rows, grid.columns, dtype=torch.bool)
    dense = block_sparse_attention(query, key, value, everything, grid.causal, 0.5, **options)  # type: ignore[arg-type]
    for index, threshold in enumerate(thresholds):
        blocks = choose(prediction, grid, cdfthreshd=float(threshold))
        output = block_sparse_attention(query, key, value, blocks, grid.causal, 0.5, **options)  # type: ignore[arg-type]
        for metric, expected in relative_errors(output, dense).items():
            torch.testing.assert_close(curves[metric].error[:, index], expected, rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]
        torch.testing.assert_close(
            curves["l1"].sparsity[:, index], grid.sparsity(blocks).mean(0).double(), rtol=1e-5, atol=1e-6
        )


@settings(max_examples=15, deadline=None)
@given(grid=grids, seed=st.integers(0, 99))
def test_the_curve_of_pv_is_what_brute_force_finds(grid: BlockGrid, seed: int) -> None:
    query, key, value = tensors(seed, grid.queries, grid.keys)
    query = 1 + 0.3 * query
    key = 0.3 * key - 0.75 * (torch.arange(grid.keys) // 32)[:, None]
    thresholds = torch.tensor([0.5, 2.0, 5.0, torch.inf])
    blocks = choose(sampled(query, key, grid, 0.5), grid, cdfthreshd=0.9)
    curves = {metric: pv_curve(query, key, value, blocks, grid, 0.5, thresholds, metric) for metric in METRICS}
    options = {"query_block": 64, "key_block": 32, "backend": "reference"}
    everything = torch.ones(grid.rows, grid.columns, dtype=torch.bool)
    dense = block_sparse_attention(query, key, value, everything, grid.causal, 0.5, **options)  # type: ignore[arg-type]
    for index, threshold in enumerate(thresholds):
        output = block_sparse_attention(
            query,
            key,
            value,
            blocks,
            grid.causal,
            0.5,
            float(threshold),
            **options,  # type: ignore[arg-type]
        )
        for metric, expected in relative_errors(output, dense).items():
            torch.testing.assert_close(curves[metric].error[:, index], expected, rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]


def test_an_oracle_leaves_the_least_mass_out() -> None:
    query, key, _ = tensors(0, 256, 256)
    grid = BlockGrid(256, 256, True, 64, 32)
    every = dense_mass(query, key, grid, 1.0)
    oracle = Prediction(every.unflatten(2, (-1, 64)).mean(3), grid.fixed(CPU) & grid.visible(CPU))
    guess = sampled(query, key, grid, 1.0)
    best, found = (choose(prediction, grid, topk=0.5) for prediction in (oracle, guess))
    assert (oracle.mass * best).sum() >= (oracle.mass * found).sum()


def test_without_its_ends_a_row_is_what_the_predictor_says() -> None:
    query, key, value = tensors(0, 256, 256)
    grid = BlockGrid(256, 256, True, 64, 32)
    for name in PREDICTORS:
        prediction = PREDICTORS[name](query, key, grid, 1.0, False)
        chosen = choose(prediction, grid, cdfthreshd=0.3)
        assert not prediction.required.any() or name == "mean-similarity"
        assert chosen.any(-1).all()
    curve = threshold_curve(query, key, value, sampled(query, key, grid, 1.0, False), grid, 1.0, torch.tensor([0.3]))
    assert curve.error.isfinite().all()
