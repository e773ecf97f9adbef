"""Block-sparse attention against dense attention over an element-wise mask, forward and backward."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from secateur.errors import InputError
from secateur.longrange.pattern import BlockPattern
from secateur.longrange.sparse import pattern_attention


def tensors(seed: int, batch: int, heads: int, length: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(batch, heads, length, width, generator=generator, dtype=dtype) for _ in range(3)]
    return [part.requires_grad_() for part in parts]


def pattern_of(seed: int, length: int, block: int, density: float) -> BlockPattern:
    size = -(-length // block)
    drawn = torch.rand(size, size, generator=torch.Generator().manual_seed(seed)) < density
    return BlockPattern(drawn | torch.eye(size, dtype=torch.bool), block)


def masked(query: Tensor, key: Tensor, value: Tensor, pattern: BlockPattern, real: Tensor | None) -> Tensor:
    length = query.shape[2]
    elements = pattern.blocks.repeat_interleave(pattern.block_size, 0).repeat_interleave(pattern.block_size, 1)
    mask = elements[:length, :length].expand(len(query), 1, -1, -1)
    if real is not None:
        mask = mask & real[:, None, None]
    return functional.scaled_dot_product_attention(query, key, value, mask)


shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "heads": st.integers(1, 3),
        "length": st.integers(1, 100),
        "block": st.sampled_from([8, 16, 24]),
        "width": st.sampled_from([4, 16]),
    }
)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, density=st.floats(0, 1), seed=st.integers(0, 99), padded=st.booleans(), small=st.booleans())
def test_it_equals_masked_attention_forward_and_backward(
    shape: dict[str, int], density: float, seed: int, padded: bool, small: bool
) -> None:
    batch, length = shape["batch"], shape["length"]
    parts = tensors(seed, batch, shape["heads"], length, shape["width"], torch.float64)
    pattern = pattern_of(seed, length, shape["block"], density)
    real = None
    if padded:
        ends = torch.randint(1, length + 1, (batch, 1), generator=torch.Generator().manual_seed(seed))
        real = torch.arange(length) < ends
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr("secateur.longrange.sparse.SCORES_AT_ONCE", 1)
        found = pattern_attention(*parts, pattern, real)
        weights = torch.randn_like(found)
        if real is not None:
            weights = weights * real[:, None, :, None]
        gradients = torch.autograd.grad((found * weights).sum(), parts)
    expected = masked(*parts, pattern, real)
    seen = slice(None) if real is None else real[:, None, :, None].expand_as(found)
    torch.testing.assert_close(found[seen], expected[seen])
    for one, other in zip(gradients, torch.autograd.grad((expected * weights).sum(), parts), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences() -> None:
    parts = tensors(0, 2, 2, 30, 3, torch.float64)
    pattern, real = pattern_of(1, 30, 8, 0.4), torch.arange(30) < torch.tensor([[30], [17]])

    def attend(*tensors: Tensor) -> Tensor:
        return pattern_attention(*tensors, pattern, real)[:, :, :17]

    assert torch.autograd.gradcheck(attend, parts)


@pytest.mark.slow
def test_dropped_weights_are_dropped_in_the_backward_pass_too() -> None:
    parts = tensors(0, 1, 2, 24, 3, torch.float64)
    pattern = pattern_of(1, 24, 8, 0.6)

    def attend(*tensors: Tensor) -> Tensor:
        torch.manual_seed(3)
        return pattern_attention(*tensors, pattern, dropout=0.4, training=True)

    assert torch.autograd.gradcheck(attend, parts)
    assert not torch.equal(attend(*parts), pattern_attention(*parts, pattern, dropout=0.4))
    torch.testing.assert_close(pattern_attention(*parts, pattern, dropout=0.4), pattern_attention(*parts, pattern))


def test_dropout_keeps_the_mean() -> None:
    query, key, _ = tensors(0, 2, 2, 256, 8, torch.float32)
    ones = torch.ones(2, 2, 256, 8)
    found = pattern_attention(query, key, ones, pattern_of(0, 256, 32, 0.5), dropout=0.3, training=True)
    assert abs(float(found.detach().mean()) - 1) < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.zeros(2, 1, 40, 4)}, "all of one shape"),
        ({"pattern": pattern_of(0, 24, 8, 0.5)}, r"a pattern of \(3, 3\) blocks of 8 does not cover 40 tokens"),
        ({"key_padding_mask": torch.ones(4, 40, dtype=torch.bool)}, r"a padding mask is of booleans, .* \(2, 40\)"),
        ({"key_padding_mask": torch.ones(2, 40)}, "a padding mask is of booleans"),
        ({"dropout": 1.0}, "a dropout of 1.0 is no share"),
    ],
)
def test_arguments_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    query, key, value = tensors(0, 2, 2, 40, 4, torch.float32)
    given = {"query": query, "key": key, "value": value, "pattern": pattern_of(0, 40, 8, 0.5)}
    with pytest.raises(InputError, match=message):
        pattern_attention(**given | change)


def test_a_sequence_that_is_all_padding_gives_finite_numbers() -> None:
    parts = tensors(0, 2, 1, 40, 4, torch.float32)
    real = torch.tensor([True, False])[:, None].expand(2, 40)
    found = pattern_attention(*parts, pattern_of(0, 40, 8, 0.3), real)
    found[0].sum().backward()
    assert found.isfinite().all()
    assert all(part.grad.isfinite().all() for part in parts)  # type: ignore[union-attr]
