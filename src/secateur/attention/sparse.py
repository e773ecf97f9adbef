"""Sparse attention of one layer: predict, choose, compute; and the spans of padded batches."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from secateur.attention.blocks import Prediction, choose, mean_similarity, sampled
from secateur.attention.config import BlockOptions
from secateur.attention.rules import Rule
from secateur.kernels import block_sparse_attention
from secateur.kernels.grid import BlockGrid

HIDDEN = -1e4


def predict(query: Tensor, key: Tensor, grid: BlockGrid, scale: float, blocks: BlockOptions) -> Prediction:
    """By the predictor that the options name. Shapes as there."""
    if blocks.predictor == "sampled":
        return sampled(query, key, grid, scale, blocks.keep_ends)
    return mean_similarity(query, key, grid, scale, blocks.keep_ends, blocks.simthreshd)


def sparse_attention(
    query: Tensor, key: Tensor, value: Tensor, rule: Rule, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over the blocks that a rule chooses.

    Args:
        query: (batch, heads, queries, head_dim); key and value (batch, kv_heads, keys, head_dim).
        rule: what is left out.
        causal: as `BlockGrid`.
        scale: factor of the scores.

    Returns:
        The output like `query`, and the share of blocks left out, (batch, heads).
    """
    grid = rule.blocks.grid(query.shape[2], key.shape[2], causal)
    key, value = key.to(query.dtype), value.to(query.dtype)
    with torch.autocast(query.device.type, enabled=False):
        return _sparse_attention(query, key, value, rule, grid, scale)


def _sparse_attention(
    query: Tensor, key: Tensor, value: Tensor, rule: Rule, grid: BlockGrid, scale: float
) -> tuple[Tensor, Tensor]:
    prediction = predict(query, key, grid, scale, rule.blocks)
    chosen = choose(prediction, grid, rule.cdfthreshd, rule.topk)
    output = block_sparse_attention(
        query,
        key,
        value,
        chosen,
        grid.causal,
        scale,
        rule.pvthreshd,
        query_block=grid.query_block,
        key_block=grid.key_block,
        backend=rule.backend,
    )
    return output, grid.sparsity(chosen)


def dense_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention of the last queries of a sequence. Shapes as `sparse_attention`."""
    mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    mask = mask.tril(key.shape[2] - query.shape[2])
    grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=grouped)


@dataclass(frozen=True)
class Span:
    """Rows of a batch whose sequences begin and end at the same places.

    Attributes:
        rows: their indices in the batch.
        first: their first key that is no padding.
        end: the key after the last one that their last query sees.
    """

    rows: list[int]
    first: int
    end: int


def spans_of(mask: Tensor) -> list[Span] | None:
    """What a mask of Transformers leaves of each sequence, where that is one run of tokens seen causally.

    Args:
        mask: which keys a query sees, booleans or what is added to the scores, (batch, 1, queries, keys).

    Returns:
        Spans that cover the batch, or None where the mask is of another kind.
    """
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask <= HIDDEN)).all()):
        return None
    seen = (mask if mask.dtype == torch.bool else mask == 0)[:, 0]  # (batch, queries, keys)
    queries = seen.shape[1]
    last = seen[:, -1]  # the last query sees all keys of its sequence, (batch, keys)
    counts = last.sum(-1)
    firsts = last.to(torch.int8).argmax(-1)
    ends = firsts + counts
    places = torch.arange(seen.shape[2], device=mask.device)
    positions = ends[:, None] - queries + torch.arange(queries, device=mask.device)  # (batch, queries)
    expected = (places >= firsts[:, None, None]) & (places <= positions[:, :, None])
    # Queries of padding see nothing, or everything where that spares an empty softmax; nobody reads them.
    padding = (positions < firsts[:, None]) & (seen.all(-1) | ~seen.any(-1))
    if bool((counts == 0).any()) or not bool(((seen == expected).all(-1) | padding).all()):
        return None
    groups: dict[tuple[int, int], list[int]] = {}
    for row, span in enumerate(zip(firsts.tolist(), ends.tolist(), strict=True)):
        groups.setdefault(span, []).append(row)
    return [Span(rows, first, end) for (first, end), rows in groups.items()]
