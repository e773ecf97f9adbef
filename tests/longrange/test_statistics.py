"""Skewness, distance and block averages, against NumPy and SciPy on the whole attention matrix."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.longrange.statistics import AttentionWatch, LayerFigures, layer_figures, mean_attention

BLOCK = 8
CHUNKS = (1, 3 * 2 * 24 * 5, 2**24)  # one row at a time, some rows that no block begins with, all


def heads(seed: int, length: int = 24, batch: int = 3, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(batch, 2, length, 16, generator=generator) for _ in range(2))
    return query * sharpness, key


def lengths_mask(lengths: list[int], length: int) -> Tensor:
    return torch.arange(length) < torch.tensor(lengths)[:, None]


def brute_mean(query: Tensor, key: Tensor, mask: Tensor) -> np.ndarray:
    """Mean attention among real tokens, one query at a time; rows without any are 0."""
    q, k, real = query.double().numpy(), key.double().numpy(), mask.numpy()
    batch, num_head, length, width = q.shape
    total = np.zeros((length, length))
    for place in range(length):
        owners = [b for b in range(batch) if real[b, place]]
        for b in owners:
            for h in range(num_head):
                scores = k[b, h][real[b]] @ q[b, h, place] / math.sqrt(width)
                weights = np.exp(scores - scores.max())
                total[place, real[b]] += weights / weights.sum() / len(owners) / num_head
    return total


@pytest.mark.parametrize("scores_at_once", CHUNKS)
@pytest.mark.parametrize("lengths", [[24, 24, 24], [24, 9, 17], [13, 5, 1]])
def test_skewness_is_scipys(scores_at_once: int, lengths: list[int]) -> None:
    query, key = heads(0, sharpness=3.0)
    mask = lengths_mask(lengths, 24)
    watch = AttentionWatch(num_blocks=3, block_size=BLOCK, scores_at_once=scores_at_once)
    found = watch.observe(0, query, key, mask)
    longest = max(lengths)
    expected = scipy.stats.skew(brute_mean(query, key, mask)[:longest, :longest], axis=None)
    assert float(found.skewness) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.integers(0, 24), min_size=3, max_size=3),
    scores_at_once=st.sampled_from(CHUNKS),
)
def test_mean_attention_is_that_of_single_queries(seed: int, lengths: list[int], scores_at_once: int) -> None:
    query, key = heads(seed)
    mask = lengths_mask(lengths, 24)
    found = torch.cat([part for _, part in mean_attention(query, key, mask, scores_at_once)])
    np.testing.assert_allclose(found.numpy(), brute_mean(query, key, mask), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scores_at_once", CHUNKS)
def test_distance_and_its_change_are_numpys(scores_at_once: int) -> None:
    watch = AttentionWatch(num_blocks=3, block_size=BLOCK, scores_at_once=scores_at_once)
    mask = lengths_mask([24, 11, 20], 24)
    means, found = [], []
    for seed in range(4):
        query, key = heads(seed)
        means.append(brute_mean(query, key, mask))
        found.append(watch.observe(0, query, key, mask))
    figures = layer_figures(found)
    distances = [float(np.linalg.norm(after - before)) for before, after in pairwise(means)]
    assert math.isnan(figures[0].distance) and math.isnan(figures[0].change_percent)
    assert math.isnan(figures[1].change_percent)
    assert [layer.distance for layer in figures[1:]] == pytest.approx(distances, rel=1e-4)
    changes = [100 * abs(after - before) / before for before, after in pairwise(distances)]
    assert [layer.change_percent for layer in figures[2:]] == pytest.approx(changes, rel=1e-2)


def test_attention_that_stays_has_no_distance_and_no_change() -> None:
    watch = AttentionWatch(num_blocks=3, block_size=BLOCK)
    figures = layer_figures([watch.observe(0, *heads(0)) for _ in range(3)])
    assert figures[2].distance == 0
    assert math.isnan(figures[2].change_percent)


def test_layers_are_followed_apart() -> None:
    together, alone = (AttentionWatch(num_blocks=3, block_size=BLOCK) for _ in range(2))
    for seed in range(3):
        together.observe(0, *heads(seed))
        of_second = together.observe(1, *heads(10 + seed))
        expected = alone.observe(1, *heads(10 + seed))
    assert layer_figures([of_second]) == layer_figures([expected])


def test_even_attention_has_no_skewness() -> None:
    query, key = heads(0, sharpness=0.0)
    found = AttentionWatch(num_blocks=3, block_size=BLOCK).observe(0, query, key)
    assert math.isnan(float(found.skewness))


def test_attention_to_few_keys_is_more_skewed() -> None:
    even, sharp = (
        float(AttentionWatch(num_blocks=3, block_size=BLOCK).observe(0, *heads(0, sharpness=sharpness)).skewness)
        for sharpness in (0.1, 10.0)
    )
    assert sharp > even


@pytest.mark.parametrize("scores_at_once", CHUNKS)
def test_attention_of_blocks_is_the_mean_over_real_queries_and_the_sum_over_keys(scores_at_once: int) -> None:
    query, key = heads(5)
    lengths = [21, 9, 3]
    watch = AttentionWatch(num_blocks=4, block_size=BLOCK, scores_at_once=scores_at_once)
    found = watch.observe(0, query, key, lengths_mask(lengths, 24))
    by_sequence = [
        brute_mean(query[b : b + 1], key[b : b + 1], lengths_mask([lengths[b]], 24)) for b in range(len(lengths))
    ]
    expected = np.zeros((4, 4))
    for row in range(3):
        rows = [
            mean[i] for mean, length in zip(by_sequence, lengths, strict=True) for i in range(length) if i // 8 == row
        ]
        expected[row, :3] = np.mean(rows, axis=0).reshape(3, BLOCK).sum(1)
    np.testing.assert_allclose(found.block_attention.numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.block_attention.sum(1).numpy(), [1, 1, 1, 0], rtol=1e-5)
    assert found.real_blocks.tolist() == [True, True, True, False]


def test_more_padding_changes_nothing() -> None:
    query, key = heads(0)
    mask = lengths_mask([13, 5, 1], 24)
    short, long = (AttentionWatch(num_blocks=3, block_size=BLOCK) for _ in range(2))
    for shift in (0.0, 1.0, 1.5):
        a = short.observe(0, query[:, :, :16] + shift, key[:, :, :16], mask[:, :16])
        b = long.observe(0, query + shift, key, mask)
    torch.testing.assert_close(a.block_attention, b.block_attention)
    torch.testing.assert_close(torch.stack([a.skewness, a.distance]), torch.stack([b.skewness, b.distance]))


def test_a_batch_of_shorter_sequences_leaves_the_rest_as_it_was() -> None:
    watch = AttentionWatch(num_blocks=3, block_size=BLOCK)
    first = watch.observe(0, *heads(0))
    second = watch.observe(0, *heads(1, length=8))
    torch.testing.assert_close(second.block_attention[1:], first.block_attention[1:])
    assert second.real_blocks.all()
    before = brute_mean(*heads(0), torch.ones(3, 24, dtype=torch.bool))[:8]
    after = np.pad(brute_mean(*heads(1, length=8), torch.ones(3, 8, dtype=torch.bool)), ((0, 0), (0, 16)))
    assert float(second.distance) == pytest.approx(float(np.linalg.norm(after - before)), rel=1e-4)


def test_nothing_is_recorded_for_gradients_and_one_matrix_is_kept() -> None:
    query, key = heads(0)
    watch = AttentionWatch(num_blocks=3, block_size=BLOCK)
    found = watch.observe(0, query.requires_grad_(), key.requires_grad_())
    assert not found.block_attention.requires_grad
    assert watch.layers[0].mean.shape == (24, 24)


def test_half_precision_attention_is_watched_in_float32() -> None:
    query, key = heads(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = AttentionWatch(num_blocks=3, block_size=BLOCK).observe(0, query.bfloat16(), key.bfloat16())
    expected = AttentionWatch(num_blocks=3, block_size=BLOCK).observe(
        0, query.bfloat16().float(), key.bfloat16().float()
    )
    assert layer_figures([found])[0].skewness == layer_figures([expected])[0].skewness
    assert found.block_attention.dtype == torch.float32


def test_figures_are_plain_numbers() -> None:
    (figures,) = layer_figures([AttentionWatch(num_blocks=3, block_size=BLOCK).observe(0, *heads(0))])
    assert isinstance(figures, LayerFigures)
    assert isinstance(figures.skewness, float)
