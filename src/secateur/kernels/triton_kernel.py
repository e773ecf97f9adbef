"""The Triton kernel: one program for 64 queries of a head goes through the kept key blocks of its query block.

Dao 2023, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", for the running softmax;
Zhang et al. 2025, "SpargeAttention", for leaving out P·V.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from secateur.kernels.grid import BlockGrid

LOG2_E = math.log2(math.e)


def launch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    counts: Tensor,
    indices: Tensor,
    query_scales: Tensor,
    key_scales: Tensor,
    pv_threshold: Tensor | None,
    grid: BlockGrid,
    scale: float,
    tile: int,
) -> None:
    """Fill `output`, (batch, heads, queries, head_dim).

    Args:
        query: contiguous as key and value; int8 with scales, else float.
        counts: of each query block the kept blocks that need no mask, and all, (batch, heads, rows, 2), int32.
        indices: kept key blocks, those without a mask first, (batch, heads, rows, columns), int32.
        query_scales: (batch, heads, tiles) where int8, else empty; `key_scales` (batch, kv_heads, columns).
        tile: queries of one program.
    """
    batch, heads, queries, width = query.shape
    tiles = triton.cdiv(queries, tile)
    sparse_forward[(tiles, heads, batch)](
        query,
        key,
        value,
        output,
        counts,
        indices,
        query_scales,
        key_scales,
        query if pv_threshold is None else (pv_threshold * LOG2_E).contiguous(),
        scale * LOG2_E,
        heads,
        heads // key.shape[1],
        queries,
        grid.keys,
        grid.offset,
        grid.rows,
        grid.columns,
        width,
        CAUSAL=grid.causal,
        SKIP=pv_threshold is not None,
        INT8=query_scales.numel() > 0,
        TILE=tile,
        TILES_PER_BLOCK=grid.query_block // tile,
        KEY_BLOCK=grid.key_block,
        WIDTH=max(16, triton.next_power_of_2(width)),
        num_warps=4,
        num_stages=3 if width <= 128 else 2,
    )


@triton.jit
def sparse_forward(
    query,
    key,
    value,
    output,
    counts,
    indices,
    query_scales,
    key_scales,
    pv_threshold,
    scale,
    heads,
    groups,
    queries,
    keys,
    offset,
    rows,
    columns,
    width,
    CAUSAL: tl.constexpr,
    SKIP: tl.constexpr,
    INT8: tl.constexpr,
    TILE: tl.constexpr,
    TILES_PER_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    tile = tl.program_id(0)
    head = tl.program_id(1)
    batch_head = (tl.program_id(2) * heads + head).to(tl.int64)
    batch_kv_head = (tl.program_id(2) * (heads // groups) + head // groups).to(tl.int64)
    place = tile * TILE + tl.arange(0, TILE)
    lanes = tl.arange(0, WIDTH)
    inside = (place < queries)[:, None] & (lanes < width)[None, :]
    at_queries = batch_head * queries * width + place[:, None] * width + lanes[None, :]
    q = tl.load(query + at_queries, mask=inside, other=0)
    factor = scale
    if INT8:
        factor = scale * tl.load(query_scales + batch_head * tl.cdiv(queries, TILE) + tile)
    if SKIP:
        threshold = tl.load(pv_threshold + head)
    row = batch_head * rows + tile // TILES_PER_BLOCK
    unmasked = tl.load(counts + 2 * row)
    count = tl.load(counts + 2 * row + 1)
    maximum = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    result = tl.zeros([TILE, WIDTH], tl.float32)
    for step in range(count):
        column = tl.load(indices + row * columns + step)
        position = column * KEY_BLOCK + tl.arange(0, KEY_BLOCK)
        there = (position < keys)[:, None] & (lanes < width)[None, :]
        at_keys = batch_kv_head * keys * width + position[:, None] * width + lanes[None, :]
        k = tl.load(key + at_keys, mask=there, other=0)
        if INT8:
            scores = tl.dot(q, tl.trans(k), out_dtype=tl.int32).to(tl.float32)
            scores *= factor * tl.load(key_scales + batch_kv_head * columns + column)
        else:
            scores = tl.dot(q, tl.trans(k)) * factor
        if step >= unmasked:
            seen = (position < keys)[None, :]
            if CAUSAL:
                seen = seen & (position[None, :] <= place[:, None] + offset)
            scores = tl.where(seen, scores, float("-inf"))
        highest = tl.max(scores, 1)
        new_maximum = tl.maximum(maximum, highest)
        # A query that has seen no key yet has no maximum; zero keeps the differences below from being NaN.
        finite = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        shares = tl.exp2(scores - finite[:, None])
        decay = tl.exp2(maximum - finite)
        total = total * decay + tl.sum(shares, 1)
        result = result * decay[:, None]
        maximum = new_maximum
        needed = True
        if SKIP:
            gap = tl.where((highest == float("-inf")) | (place >= queries), float("inf"), finite - highest)
            needed = tl.min(gap, 0) <= threshold
        if needed:
            v = tl.load(value + at_keys, mask=there, other=0)
            result += tl.dot(shares.to(v.dtype), v)
    result = result / tl.where(total == 0, 1.0, total)[:, None]
    tl.store(output + at_queries, result.to(output.dtype.element_ty), mask=inside)
