"""Which blocks are kept, and that the learner finds where attention goes."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import TrainingError
from secateur.longrange.pattern import BlockPattern, PatternLearner, choose_blocks, choose_patterns

densities = st.floats(0.001, 1.0)


def scores(seed: int, blocks: int, levels: int | None = None) -> torch.Tensor:
    """Random scores; with few levels there are many ties."""
    generator = torch.Generator().manual_seed(seed)
    if levels is None:
        return torch.randn(blocks, blocks, generator=generator)
    return torch.randint(levels, (blocks, blocks), generator=generator).float()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 999),
    blocks=st.integers(1, 24),
    density=densities,
    levels=st.one_of(st.none(), st.integers(1, 3)),
)
def test_the_share_is_met_and_the_diagonal_stays(seed: int, blocks: int, density: float, levels: int | None) -> None:
    kept = choose_blocks(scores(seed, blocks, levels), density)
    assert kept.diagonal().all()
    assert kept.any(0).all() and kept.any(1).all()
    wanted = max(blocks, density * blocks**2)
    assert wanted - 1 < int(kept.sum()) <= wanted + 1e-6


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), blocks=st.integers(2, 16), density=densities)
def test_what_is_kept_beside_the_diagonal_scores_highest(seed: int, blocks: int, density: float) -> None:
    values = scores(seed, blocks)
    kept = choose_blocks(values, density)
    others = ~torch.eye(blocks, dtype=torch.bool)
    inside, outside = values[kept & others], values[~kept]
    assert not len(inside) or not len(outside) or inside.min() >= outside.max()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    density=densities,
    real=st.lists(st.booleans(), min_size=8, max_size=8),
    ties=st.booleans(),
)
def test_padding_keeps_its_diagonal_and_nothing_else(seed: int, density: float, real: list[bool], ties: bool) -> None:
    values, real_blocks = scores(seed, 8, 2 if ties else None), torch.tensor(real)
    kept = choose_blocks(values, density, real_blocks)
    assert torch.equal(kept[real_blocks][:, real_blocks], choose_blocks(values[real_blocks][:, real_blocks], density))
    pairs = real_blocks[:, None] & real_blocks
    assert torch.equal(kept & ~pairs, torch.eye(8, dtype=torch.bool) & ~pairs)


def test_of_equal_scores_the_first_are_taken() -> None:
    kept = choose_blocks(torch.ones(4, 4), 6 / 16)
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 1] = expected[0, 2] = True
    assert torch.equal(kept, expected)


def test_everything_is_kept_at_density_one() -> None:
    assert choose_blocks(scores(0, 5), 1.0).all()


def test_scores_that_are_not_finite_are_refused() -> None:
    values = scores(0, 4)
    values[1, 2] = torch.nan
    with pytest.raises(TrainingError, match="not finite; take a smaller learning_rate"):
        choose_blocks(values, 0.5)


def test_a_pattern_tells_its_size_and_density() -> None:
    pattern = BlockPattern(choose_blocks(scores(0, 8), 0.25), block_size=32)
    assert (pattern.rows, pattern.columns, pattern.density) == (8, 8, 0.25)
    cropped = pattern.cropped(3)
    assert (cropped.rows, cropped.columns, cropped.block_size) == (3, 3, 32)
    assert torch.equal(cropped.blocks, pattern.blocks[:3, :3])
    assert cropped.blocks.any(1).all()


def test_too_small_a_density_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (pattern,) = choose_patterns(scores(0, 8)[None], 0.1, 16)
    assert torch.equal(pattern.blocks, torch.eye(8, dtype=torch.bool))
    assert "A density of 0.1 leaves room for nothing but the diagonal" in caplog.text


def planted(blocks: int, seed: int) -> torch.Tensor:
    """Attention of blocks that go by twos, wherever they stand, besides some to all."""
    order = torch.randperm(blocks, generator=torch.Generator().manual_seed(seed))
    attention = torch.full((blocks, blocks), 0.2 / blocks) + 0.4 * torch.eye(blocks)
    first, second = order[: blocks // 2], order[blocks // 2 :]
    attention[first, second] += 0.4
    attention[second, first] += 0.4
    return attention


def test_the_learner_finds_planted_blocks_in_each_layer() -> None:
    torch.manual_seed(0)
    blocks = 16
    attention = torch.stack([planted(blocks, 0), planted(blocks, 1)])
    learner = PatternLearner(num_layers=2, num_blocks=blocks, head_dim=32)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=0.01)
    losses = []
    for _ in range(200):
        optimiser.zero_grad()
        loss = learner.loss(attention)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]
    patterns = choose_patterns(learner.gram(), 2 / blocks, 32)
    for pattern, of_layer in zip(patterns, attention, strict=True):
        assert torch.equal(pattern.blocks, of_layer > 0.3)


def test_the_learners_target_is_not_trained() -> None:
    attention = planted(8, 0)[None].requires_grad_()
    learner = PatternLearner(1, 8, 16)
    learner.loss(attention).backward()
    assert attention.grad is None
    assert learner.vectors.grad is not None


def test_blocks_of_padding_do_not_count_in_the_loss() -> None:
    learner = PatternLearner(2, 8, 16)
    attention = torch.rand(2, 8, 8)
    real = torch.arange(8) < 5
    loss = learner.loss(attention, real)
    expected = (learner.gram()[:, :5, :5] - attention[:, :5, :5]).square().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(learner.loss(attention, torch.ones(8, dtype=torch.bool)), learner.loss(attention))
    loss.backward()
    assert (learner.vectors.grad[:, 5:] == 0).all()


def test_the_learner_begins_near_even_attention() -> None:
    gram = PatternLearner(num_layers=2, num_blocks=16, head_dim=32).gram()
    torch.testing.assert_close(gram, torch.full_like(gram, 1 / 16), atol=0.25 / 16, rtol=0)


def test_a_density_for_the_diagonal_alone_is_said(caplog: pytest.LogCaptureFixture) -> None:
    choose_patterns([torch.rand(8, 8)], 0.1, 16)
    choose_patterns([torch.rand(8, 8)], 0.1, 16, torch.arange(8) < 2)
    assert caplog.messages[0].endswith("raise density or lower block_size")
    assert caplog.messages[1].endswith(
        "fill 2 of the model's 8 blocks: set max_seq_len to the --max-length of the data"
    )
