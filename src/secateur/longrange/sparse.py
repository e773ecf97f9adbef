"""Attention over the blocks of a pattern, forward and backward, without ever holding an L × L matrix.

Yoon, Lee, Kim, Moon 2024, "Exploring Attention Sparsity to Accelerate Transformer Training on GPUs", for training on
one pattern of blocks for all sequences and heads of a layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from secateur.errors import InputError
from secateur.longrange.pattern import BlockPattern

SCORES_AT_ONCE = 2**19


def pattern_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: BlockPattern,
    key_padding_mask: Tensor | None = None,
    dropout: float = 0.0,
    training: bool = False,
) -> Tensor:
    """Softmax attention of the queries of each block to the keys of the kept blocks in its row.

    On CUDA without dropout this is PyTorch's compiled `flex_attention`. Else query blocks with equally many kept blocks
    go together: their keys and values are gathered side by side for batched products. The backward pass gathers and
    computes them again, so that what is stored is the queries, keys and values.

    Args:
        query: (batch, heads, length, head_dim); key and value likewise.
        pattern: kept blocks, as many rows and columns as blocks cover the length.
        key_padding_mask: True where a key is real, (batch, length). Queries that see no real key give finite numbers
            without meaning.
        dropout: share of the attention weights that are set to zero while `training`.
        training: whether they are.

    Returns:
        (batch, heads, length, head_dim).

    Raises:
        InputError: shapes do not fit each other, or the dropout is no share below 1.
    """
    _require_fit(query, key, value, pattern, key_padding_mask, dropout)
    rate = dropout if training else 0.0
    if query.is_cuda and not rate:
        return _flex(query, key, value, pattern, key_padding_mask)
    length, missing = query.shape[2], -query.shape[2] % pattern.block_size
    if missing:
        query, key, value = (functional.pad(part, (0, 0, 0, missing)) for part in (query, key, value))
        if key_padding_mask is None:
            key_padding_mask = torch.arange(length + missing, device=query.device).expand(len(query), -1) < length
        else:
            key_padding_mask = functional.pad(key_padding_mask, (0, missing))
    seed = int(torch.randint(2**31, ())) if rate else 0
    output = BlockSparse.apply(query, key, value, key_padding_mask, pattern, Dropout(rate, seed))
    return output[:, :, :length]


def _require_fit(
    query: Tensor, key: Tensor, value: Tensor, pattern: BlockPattern, mask: Tensor | None, dropout: float
) -> None:
    if query.dim() != 4 or not query.shape == key.shape == value.shape:
        raise InputError("queries, keys and values are all of one shape: (batch, heads, length, head_dim)")
    length = query.shape[2]
    if pattern.block_size < 1 or tuple(pattern.blocks.shape) != (-(-length // pattern.block_size),) * 2:
        raise InputError(
            f"a pattern of {tuple(pattern.blocks.shape)} blocks of {pattern.block_size} does not cover {length} "
            "tokens; choose one with as many rows and columns as there are blocks"
        )
    if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != (len(query), length)):
        raise InputError(f"a padding mask is of booleans, (batch, length), here {(len(query), length)}")
    if not 0 <= dropout < 1:
        raise InputError(f"a dropout of {dropout} is no share from 0 to below 1")


@dataclass(frozen=True)
class Dropout:
    """Which attention weights are dropped: the same ones whenever the same chunk asks.

    Attributes:
        rate: share of them.
        seed: of the draw.
    """

    rate: float
    seed: int

    def factors(self, shares: Tensor, chunk: int) -> Tensor | None:
        """What a chunk's attention weights are multiplied by: 0, or 1 / (1 − rate); None where nothing is dropped."""
        if not self.rate:
            return None
        generator = torch.Generator(shares.device).manual_seed(self.seed + chunk)
        kept = torch.empty_like(shares).bernoulli_(1 - self.rate, generator=generator)
        return kept.div_(1 - self.rate)


@dataclass(frozen=True)
class Chunk:
    """Some sequences' heads, and query blocks with equally many kept key blocks.

    Attributes:
        number: of the chunk.
        heads: which of the batch · heads.
        rows: query blocks, (rows,).
        columns: their kept key blocks one after another, (rows · kept,).
    """

    number: int
    heads: slice
    rows: Tensor
    columns: Tensor


def chunks_of(pattern: BlockPattern, heads: int) -> Iterator[Chunk]:
    """All query blocks of all heads, in pieces whose scores fit in the processor's cache.

    Args:
        pattern: kept blocks.
        heads: batch · heads.
    """
    counts = pattern.blocks.sum(1)
    number = 0
    for kept in counts.unique().tolist():
        if not kept:
            continue
        rows = (counts == kept).nonzero()[:, 0]
        columns = pattern.blocks[rows].nonzero()[:, 1].view(len(rows), kept)
        scores = kept * pattern.block_size**2
        together = max(1, min(len(rows), SCORES_AT_ONCE // scores))
        step = max(1, SCORES_AT_ONCE // (scores * together))
        for some_rows, some_columns in zip(rows.split(together), columns.split(together), strict=True):
            for first in range(0, heads, step):
                yield Chunk(number, slice(first, first + step), some_rows, some_columns.flatten())
                number += 1


class BlockSparse(torch.autograd.Function):
    """`pattern_attention` for lengths that the blocks divide."""

    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        pattern: BlockPattern,
        dropout: Dropout,
    ) -> Tensor:
        parts = Parts.of(query, key, value, mask, pattern)
        output = torch.zeros_like(parts.query)
        for chunk in chunks_of(pattern, len(output)):
            _, shares, _, values = parts.attended(chunk)
            factors = dropout.factors(shares, chunk.number)
            weights = shares if factors is None else factors.mul_(shares)
            output[chunk.heads, chunk.rows] = weights @ values
        context.save_for_backward(query, key, value, mask)
        context.pattern, context.dropout = pattern, dropout
        return output.view(query.shape)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = context.saved_tensors
        parts = Parts.of(query, key, value, mask, context.pattern)
        (by_block,) = (parts.blocks(gradient) for gradient in gradients)
        of_query, of_key, of_value = (torch.zeros_like(part) for part in (parts.query, parts.key, parts.value))
        for chunk in chunks_of(context.pattern, len(by_block)):
            queries, shares, keys, values = parts.attended(chunk)
            of_output = by_block[chunk.heads].index_select(1, chunk.rows)  # (heads, rows, block, head_dim)
            factors = context.dropout.factors(shares, chunk.number)
            weights = shares if factors is None else factors * shares
            of_weights = of_output @ values.transpose(2, 3)
            of_shares = of_weights if factors is None else of_weights.mul_(factors)
            of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
            of_query[chunk.heads, chunk.rows] = (of_scores @ keys).mul_(parts.scale)
            for total, part in (
                (of_key, of_scores.transpose(2, 3) @ queries),
                (of_value, weights.transpose(2, 3) @ of_output),
            ):
                blocks = part.view(len(part), -1, *total.shape[2:])  # (heads, rows · kept, block, head_dim)
                total[chunk.heads].index_add_(1, chunk.columns, blocks)
        return *(part.view(query.shape) for part in (of_query, of_key, of_value)), None, None, None


@dataclass(frozen=True)
class Parts:
    """Queries, keys and values by block, (batch · heads, blocks, block_size, head_dim).

    Attributes:
        hidden: keys that are padding, (batch, blocks, block_size), or None.
        scale: of the scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    hidden: Tensor | None
    pattern: BlockPattern
    scale: float

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, pattern: BlockPattern) -> "Parts":
        """From tensors (batch, heads, length, head_dim) and a mask (batch, length)."""
        size = pattern.block_size
        query, key, value = (_blocks(part, size) for part in (query, key, value))
        hidden = None if mask is None else ~mask.unflatten(1, (-1, size))
        return cls(query, key, value, hidden, pattern, query.shape[-1] ** -0.5)

    def blocks(self, tokens: Tensor) -> Tensor:
        """(batch, heads, length, head_dim) by block."""
        return _blocks(tokens, self.pattern.block_size)

    def attended(self, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A chunk's scaled queries (heads, rows, block, head_dim), attention weights (heads, rows, block, keys), keys
        and values (heads, rows, keys, head_dim)."""
        queries = self.query[chunk.heads].index_select(1, chunk.rows) * self.scale
        keys, values = (
            part[chunk.heads].index_select(1, chunk.columns).view(len(queries), len(chunk.rows), -1, part.shape[-1])
            for part in (self.key, self.value)
        )
        scores = queries @ keys.transpose(2, 3)
        if self.hidden is not None:
            owners = torch.arange(len(self.query), device=scores.device)[chunk.heads]
            hidden = self.hidden[owners // (len(self.query) // len(self.hidden))].index_select(1, chunk.columns)
            hidden = hidden.view(len(queries), len(chunk.rows), 1, -1)
            scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)
        return queries, scores.softmax(-1), keys, values


def _blocks(tokens: Tensor, size: int) -> Tensor:
    return tokens.contiguous().flatten(0, 1).unflatten(1, (-1, size))


def _flex(query: Tensor, key: Tensor, value: Tensor, pattern: BlockPattern, mask: Tensor | None) -> Tensor:
    length = query.shape[2]
    blocks = pattern.blocks.to(query.device)
    counts = blocks.sum(1, dtype=torch.int32)[None, None]  # (1, 1, rows)
    order = blocks.to(torch.int8).argsort(dim=1, descending=True, stable=True).to(torch.int32)[None, None]
    none = torch.zeros_like(counts)
    options: dict[str, Any] = {"BLOCK_SIZE": pattern.block_size, "seq_lengths": (length, length)}
    if mask is None and length % pattern.block_size == 0:
        chosen = BlockMask.from_kv_blocks(none, order, counts, order, **options)
    else:
        real = torch.ones(len(query), length, dtype=torch.bool, device=query.device) if mask is None else mask

        def is_real(batch: Tensor, _head: Tensor, _query: Tensor, place: Tensor) -> Tensor:
            return real[batch, place]

        chosen = BlockMask.from_kv_blocks(counts, order, none, order, mask_mod=is_real, **options)
    return _compiled_flex()(query, key, value, block_mask=chosen)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)
