"""The attention matrix cut into blocks of queries by keys."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlockGrid:
    """Blocks of `query_block` queries by `key_block` keys; the last ones may be shorter.

    With `causal` the queries are the last of the keys' sequence, as in a chunk of a prefill: query i stands at
    position i + keys − queries and sees the keys up to there.

    Attributes:
        queries: number of queries.
        keys: number of keys, no fewer than queries where causal.
        causal: whether a query sees no key behind its own position.
        query_block: queries in a block.
        key_block: keys in a block.
    """

    queries: int
    keys: int
    causal: bool
    query_block: int = 128
    key_block: int = 64

    def __post_init__(self) -> None:
        if self.causal and self.queries > self.keys:
            raise ValueError(f"{self.queries} queries cannot be the last of {self.keys} keys")

    @property
    def rows(self) -> int:
        """Number of query blocks."""
        return -(-self.queries // self.query_block)

    @property
    def columns(self) -> int:
        """Number of key blocks."""
        return -(-self.keys // self.key_block)

    @property
    def offset(self) -> int:
        """Position of the first query among the keys."""
        return self.keys - self.queries if self.causal else 0

    def first_position(self, device: torch.device) -> Tensor:
        """Position of each query block's first query, (rows,)."""
        return torch.arange(self.rows, device=device) * self.query_block + self.offset

    def last_position(self, device: torch.device) -> Tensor:
        """Position of each query block's last query, (rows,)."""
        return (self.first_position(device) + self.query_block).clamp_max(self.queries + self.offset) - 1

    def visible(self, device: torch.device) -> Tensor:
        """Blocks in which a query sees a key, (rows, columns)."""
        starts = torch.arange(self.columns, device=device) * self.key_block
        if not self.causal:
            return torch.ones(self.rows, self.columns, dtype=torch.bool, device=device)
        return starts <= self.last_position(device)[:, None]

    def whole(self, device: torch.device) -> Tensor:
        """Full-width blocks in which every query sees every key, (rows, columns)."""
        ends = torch.arange(1, self.columns + 1, device=device) * self.key_block
        whole = (ends <= self.keys).expand(self.rows, -1)
        return whole & (ends - 1 <= self.first_position(device)[:, None]) if self.causal else whole

    def fixed(self, device: torch.device) -> Tensor:
        """Blocks that always stay, (rows, columns): the first key block, and those where a query meets itself."""
        starts = torch.arange(self.columns, device=device) * self.key_block
        fixed = (starts == 0).expand(self.rows, -1)
        if self.causal or self.queries >= self.keys:  # keys at the end that are padding may be cut off
            ends = starts + self.key_block
            diagonal = (starts <= self.last_position(device)[:, None]) & (ends > self.first_position(device)[:, None])
            fixed = fixed | diagonal
        return fixed

    def row_range(self, row: int) -> tuple[int, int]:
        """First query of a query block, and the one after its last."""
        return row * self.query_block, min((row + 1) * self.query_block, self.queries)

    def by_key(self, blocks: Tensor) -> Tensor:
        """Values of key blocks (…, columns) repeated for each of their keys, (…, keys)."""
        return blocks.repeat_interleave(self.key_block, -1)[..., : self.keys]

    def sees(self, first: int, end: int, device: torch.device) -> Tensor:
        """Which keys the queries from `first` to `end` see, (end − first, keys)."""
        keys = torch.arange(self.keys, device=device)
        if not self.causal:
            return torch.ones(end - first, self.keys, dtype=torch.bool, device=device)
        return keys <= torch.arange(first + self.offset, end + self.offset, device=device)[:, None]

    def sparsity(self, block_mask: Tensor) -> Tensor:
        """Share of the visible blocks that a mask (…, rows, columns) leaves out, (…)."""
        visible = self.visible(block_mask.device)
        return 1 - (block_mask & visible).sum((-2, -1)) / visible.sum()


def grouped_scores(query: Tensor, key: Tensor) -> Tensor:
    """Queries (batch, heads, n, d) times their group's keys (batch, kv_heads, m, d), (batch, heads, n, m)."""
    batch, heads, queries, width = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * queries, width)
    return (grouped @ key.transpose(-1, -2)).view(batch, heads, queries, key.shape[2])
