"""Block-sparse attention by batched matrix products over gathered blocks: the fastest on CPUs, in PyTorch alone."""

import torch
from torch import Tensor
from torch.nn import functional

from secateur.kernels.grid import BlockGrid

SCORES_AT_ONCE = 2**21
UNSEEN = -30_000.0
FAR = 8.0


def gathered_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: Tensor,
    grid: BlockGrid,
    scale: float,
    pv_threshold: Tensor | None = None,
) -> Tensor:
    """Arguments as `block_sparse_attention`; what P·V skipping would leave out is computed.

    Query blocks with about as many kept key blocks go together: their keys and values are gathered side by side, empty
    blocks filling the shorter lists, and two batched products with a softmax between give their outputs.
    """
    batch, heads, _, width = query.shape
    queries = _blocks(query * scale, grid.query_block).flatten(0, 2)  # (pairs, query_block, width)
    keys, values = (_with_an_empty_one(_blocks(part, grid.key_block).flatten(0, 2)) for part in (key, value))
    blocks, counts = _lists(block_mask, grid, key.shape[1], len(keys) - 1)
    queries, keys = _augmented(queries, keys, blocks, grid)
    keys, values = keys.flatten(1), values.flatten(1)
    rows = torch.arange(grid.rows, device=query.device).repeat(batch * heads)
    output = queries.new_zeros(len(queries), grid.query_block, width)
    # How many of a row's last blocks may need the causal mask.
    masked = int((grid.visible(query.device) & ~grid.whole(query.device)).sum(-1).max()) if grid.causal else 0
    for pairs in _grouped(counts, grid):
        length = int(counts[pairs[-1]])
        chosen = blocks[pairs, blocks.shape[1] - length :]  # (pairs, length), empty ones first
        some_keys = keys.index_select(0, chosen.flatten()).view(len(pairs), -1, width + 2)
        zone = min(masked, length)
        columns = chosen[:, length - zone :] % grid.columns
        scores = _scores(queries[pairs], some_keys, columns, rows[pairs], grid)  # (pairs, query_block, keys)
        shares = scores.softmax(-1)
        if int(counts[pairs[0]]) <= masked:
            shares = shares.masked_fill(scores.amax(-1, keepdim=True) < UNSEEN / 2, 0)
        output[pairs] = shares @ values.index_select(0, chosen.flatten()).view(len(pairs), -1, width)
    return output.view(batch, heads, -1, width)[:, :, : grid.queries].contiguous()


def _blocks(tokens: Tensor, block: int) -> Tensor:
    """(batch, heads, blocks, block, width), the last one filled up with zeros."""
    padded = functional.pad(tokens, (0, 0, 0, -tokens.shape[2] % block))
    return padded.unflatten(2, (-1, block))


def _with_an_empty_one(blocks: Tensor) -> Tensor:
    return torch.cat([blocks, torch.zeros_like(blocks[:1])])


def _lists(block_mask: Tensor, grid: BlockGrid, kv_heads: int, empty: int) -> tuple[Tensor, Tensor]:
    """Kept key blocks of each query block among all heads' blocks, (pairs, columns), and how many, (pairs,).

    They stand at the end in the order of the keys, behind as many empty ones as are missing.
    """
    batch, heads = block_mask.shape[:2]
    order = block_mask.to(torch.int8).argsort(dim=-1, stable=True)  # kept ones last
    kept = block_mask.gather(-1, order)
    owner = torch.arange(batch * kv_heads, device=order.device).repeat_interleave(heads // kv_heads)
    numbered = order + (owner * grid.columns).view(batch, heads, 1, 1)
    return numbered.where(kept, empty).flatten(0, 2), block_mask.sum(-1).flatten()


def _augmented(queries: Tensor, keys: Tensor, blocks: Tensor, grid: BlockGrid) -> tuple[Tensor, Tensor]:
    """Queries and keys with two more entries, whose products come to the scores.

    The first takes a constant from all scores of a query, which changes no share, but leaves those near the highest
    small, so that half precision rounds them little: the highest score in the query's first and last kept blocks. The
    second hides keys that are not there.
    """
    highest = queries.new_zeros(*queries.shape[:2], 1)
    if queries.dtype != torch.float32:
        ends = torch.stack([_first(blocks, len(keys) - 1), blocks[:, -1]], 1)
        some = keys[ends].flatten(1, 2)  # (pairs, 2 · key_block, width)
        highest = (queries @ some.transpose(1, 2)).amax(-1, keepdim=True)
    hidden = torch.zeros(len(keys), grid.key_block, 1, dtype=keys.dtype, device=keys.device)
    hidden[-1] = 1
    if grid.keys % grid.key_block:
        hidden[:-1].view(-1, grid.columns, grid.key_block)[:, -1, grid.keys % grid.key_block :] = 1
    ones = torch.ones_like(hidden)
    queries = torch.cat([queries, -highest, torch.full_like(highest, UNSEEN)], -1)
    return queries, torch.cat([keys, ones, hidden], -1)


def _scores(queries: Tensor, keys: Tensor, columns: Tensor, rows: Tensor, grid: BlockGrid) -> Tensor:
    """Products of augmented queries and keys; once more where the constant was far from the highest score seen.

    Args:
        queries: (pairs, query_block, width + 2).
        keys: (pairs, keys, width + 2).
        columns: the last key blocks, which may hold keys behind a query, (pairs, blocks).
        rows: the query blocks, (pairs,).
        grid: the blocks.
    """
    scores = queries @ keys.transpose(1, 2)
    _hide_later_keys(scores, columns, rows, grid)
    if queries.dtype == torch.float32:
        return scores
    highest = scores.amax(-1, keepdim=True)
    off = highest.where(highest > UNSEEN / 2, 0)
    (far,) = (off.abs() > FAR).flatten(1).any(1).nonzero(as_tuple=True)
    if len(far):
        nearer = queries[far]
        nearer[..., -2:-1] -= off[far]
        again = nearer @ keys[far].transpose(1, 2)
        _hide_later_keys(again, columns[far], rows[far], grid)
        scores[far] = again
    return scores


def _first(blocks: Tensor, empty: int) -> Tensor:
    """The first block of each list that is not empty, or an empty one."""
    return blocks.gather(1, (blocks != empty).to(torch.int8).argmax(-1, keepdim=True))[:, 0]


def _grouped(counts: Tensor, grid: BlockGrid) -> list[Tensor]:
    """Pairs with about the same number of blocks, as many as fit in the processor's cache; those with none are left."""
    order = counts.argsort(stable=True)
    order = order[counts[order] > 0]
    groups, end = [], len(order)
    while end:
        longest = int(counts[order[end - 1]])
        size = max(1, SCORES_AT_ONCE // (grid.query_block * grid.key_block * longest))
        groups.append(order[max(0, end - size) : end])
        end = max(0, end - size)
    return groups


def _hide_later_keys(scores: Tensor, columns: Tensor, rows: Tensor, grid: BlockGrid) -> None:
    """Set the scores of keys behind their query to −∞, in place. Arguments as `_scores`."""
    if columns.shape[1] == 0:
        return
    inside = torch.arange(grid.key_block, device=scores.device)
    places = (columns[..., None] * grid.key_block + inside).flatten(1)[:, None]  # (pairs, 1, keys)
    positions = rows[:, None] * grid.query_block + torch.arange(grid.query_block, device=scores.device) + grid.offset
    zone = scores[:, :, -columns.shape[1] * grid.key_block :]
    zone.masked_fill_(places > positions[..., None], -torch.inf)
