"""Every backend against plain attention over an element-wise mask."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import InputError
from secateur.kernels import block_sparse_attention
from secateur.kernels.grid import BlockGrid
from secateur.kernels.triton import installed, quantised

needs_triton = pytest.mark.skipif(not installed(), reason="needs Triton")
BACKENDS = ["reference", "gathered", pytest.param("triton", marks=needs_triton)]


def tensors(seed: int, batch: int, heads: int, kv_heads: int, queries: int, keys: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, queries, width), (batch, kv_heads, keys, width), (batch, kv_heads, keys, width)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def blocks_of(seed: int, grid: BlockGrid, batch: int, heads: int, density: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(batch, heads, grid.rows, grid.columns, generator=generator) < density
    return (drawn | grid.fixed(drawn.device)) & grid.visible(drawn.device)


def plain(query: Tensor, key: Tensor, value: Tensor, blocks: Tensor, grid: BlockGrid) -> Tensor:
    """PyTorch's own attention with every pair's mask written out."""
    elements = blocks.repeat_interleave(grid.query_block, 2).repeat_interleave(grid.key_block, 3)
    mask = elements[:, :, : grid.queries, : grid.keys]
    if grid.causal:
        mask = mask & torch.ones(grid.queries, grid.keys, dtype=torch.bool).tril(grid.offset)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)


shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 2),
        "kv_heads": st.integers(1, 2),
        "groups": st.integers(1, 3),
        "queries": st.integers(1, 200),
        "before": st.integers(0, 130),
        "width": st.sampled_from([16, 24]),
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(shape=shapes, causal=st.booleans(), density=st.floats(0, 1), seed=st.integers(0, 99))
def test_backends_equal_plain_attention(
    backend: str, shape: dict[str, int], causal: bool, density: float, seed: int
) -> None:
    heads, keys = shape["kv_heads"] * shape["groups"], shape["queries"] + shape["before"]
    parts = tensors(seed, shape["batch"], heads, shape["kv_heads"], shape["queries"], keys, shape["width"])
    grid = BlockGrid(shape["queries"], keys, causal, 64, 32)
    blocks = blocks_of(seed, grid, shape["batch"], heads, density)
    found = block_sparse_attention(*parts, blocks, causal, query_block=64, key_block=32, backend=backend)  # type: ignore[arg-type]
    torch.testing.assert_close(found, plain(*parts, blocks, grid), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "keys", "causal"), [(300, 300, True), (130, 450, True), (200, 333, False)])
def test_flex_equals_plain_attention(queries: int, keys: int, causal: bool) -> None:
    parts = tensors(0, 1, 6, 2, queries, keys, 64)
    grid = BlockGrid(queries, keys, causal)
    blocks = blocks_of(1, grid, 1, 6, 0.4)
    found = block_sparse_attention(*parts, blocks, causal, backend="flex")
    torch.testing.assert_close(found, plain(*parts, blocks, grid), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@needs_triton
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), threshold=st.floats(0.1, 6), causal=st.booleans(), queries=st.integers(1, 200))
def test_triton_skips_what_the_reference_skips(seed: int, threshold: float, causal: bool, queries: int) -> None:
    query, key, value = falling(5)
    noise, _, _ = tensors(seed, 1, 2, 1, queries, 320, 16)
    query = query[:, :, -queries:] + 0.3 * noise
    grid = BlockGrid(queries, 320, causal, 128, 32)
    blocks = blocks_of(seed, grid, 1, 2, 0.6)
    per_head = torch.tensor([threshold, 1e4])
    reference, kernel = (
        block_sparse_attention(query, key, value, blocks, causal, None, per_head, key_block=32, backend=backend)
        for backend in ("reference", "triton")
    )
    torch.testing.assert_close(kernel, reference, rtol=1e-4, atol=1e-4)
    whole = block_sparse_attention(query, key, value, blocks, causal, key_block=32, backend="reference")
    torch.testing.assert_close(reference[:, 1], whole[:, 1])


def test_gathered_in_bfloat16_rounds_little() -> None:
    """Scores of 100 and more, which bfloat16 alone would round by half."""
    query, key, value = tensors(0, 2, 4, 2, 300, 300, 64)
    query, key = 4 * query, 4 * key
    blocks = blocks_of(0, BlockGrid(300, 300, True), 2, 4, 0.5)
    half = [part.bfloat16() for part in (query, key, value)]
    exact = block_sparse_attention(*(part.float() for part in half), blocks, True, backend="reference")
    rounded = block_sparse_attention(*half, blocks, True, backend="gathered")
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().sum() < 0.02 * exact.abs().sum()


def test_gathered_in_bfloat16_with_a_dominant_block_in_the_middle() -> None:
    query, key, value = tensors(0, 1, 2, 1, 512, 512, 64)
    query, key = query + 1, key.clone()
    key[:, :, 192:256] += 8.75  # scores higher by about 70
    half = [part.bfloat16() for part in (query, key, value)]
    blocks = BlockGrid(512, 512, True).visible(torch.device("cpu"))
    exact = block_sparse_attention(*(part.float() for part in half), blocks, True, backend="reference")
    rounded = block_sparse_attention(*half, blocks, True, backend="gathered")
    assert (rounded.float() - exact).abs().sum() < 0.01 * exact.abs().sum()


def falling(blocks: int) -> list[Tensor]:
    """Tensors whose scores fall by about 3 from one key block of 64 to the next."""
    query, key, value = tensors(3, 1, 2, 1, 64 * blocks, 64 * blocks, 16)
    levels = torch.arange(blocks).repeat_interleave(64)[:, None]
    return [1 + 0.1 * query, 0.1 * key - 0.75 * levels, value]


def test_skipping_adds_less_than_the_threshold_allows() -> None:
    """A skipped block's shares are below e^−threshold each, against a sum of at least one."""
    parts = falling(4)
    blocks = torch.ones(1, 2, 2, 4, dtype=torch.bool)
    whole = block_sparse_attention(*parts, blocks, True, backend="reference")
    for threshold in (2.0, 5.0):
        skipped = block_sparse_attention(*parts, blocks, True, None, threshold, backend="reference")
        difference = (whole - skipped).abs().max()
        assert 0 < difference <= 256 * torch.e**-threshold * parts[2].abs().max()


@needs_triton
def test_int8_stays_close() -> None:
    query, key, value = tensors(0, 1, 4, 2, 200, 200, 64)
    blocks = blocks_of(0, BlockGrid(200, 200, True), 1, 4, 0.5)
    shifted = key + 5 * torch.randn(64, generator=torch.Generator().manual_seed(1))
    exact, rough = (
        block_sparse_attention(query, shifted, value, blocks, True, backend="triton", int8=int8)
        for int8 in (False, True)
    )
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.999


def test_quantised_is_within_half_a_step() -> None:
    tokens = torch.randn(1, 2, 70, 16)
    rounded, scales = quantised(tokens, 32)
    steps = scales.repeat_interleave(32, 2)[:, :, :70, None]
    assert ((rounded * steps - tokens).abs() <= 0.5001 * steps).all()


@pytest.mark.parametrize(
    ("heads", "mask", "message"),
    [
        ((3, 2), (1, 1), "the heads a multiple of the keys' heads"),
        ((4, 2), (2, 2), r"a mask of \(1, 1, 2, 2\) blocks does not fit 1 by 1"),
    ],
)
def test_shapes_that_do_not_fit(heads: tuple[int, int], mask: tuple[int, int], message: str) -> None:
    parts = tensors(0, 1, *heads, 60, 60, 16)
    with pytest.raises(InputError, match=message):
        block_sparse_attention(*parts, torch.ones(1, 1, *mask, dtype=torch.bool), True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_mask": torch.ones(1, 1, 1, 1)}, "of booleans, not float32"),
        ({"block_mask": torch.ones(1, 3, 1, 1, dtype=torch.bool)}, "mask of blocks of shape .1, 3, 1, 1. does not fit"),
        ({"pv_threshold": torch.ones(3)}, "pv_threshold of shape .3,. does not fit"),
        ({"backend": "cutlass"}, "no backend 'cutlass'; choose auto, reference"),
        ({"query": torch.zeros(4, 60, 16)}, "four dimensions"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    query, key, value = tensors(0, 1, 4, 2, 60, 60, 16)
    whole = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    with pytest.raises(InputError, match=message):
        block_sparse_attention(
            **{"query": query, "key": key, "value": value, "block_mask": whole} | arguments, causal=True
        )
