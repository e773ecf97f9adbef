"""How attention mixes tokens: the FLOPs between its projections, and what a cache keeps of a sequence."""

from dataclasses import dataclass

CHUNK = 64  # tokens that Transformers' gated delta rule takes at once


@dataclass(frozen=True)
class SoftmaxAttention:
    """Each query over the keys up to its own, or over the nearest of them.

    Attributes:
        query_width: of all query heads.
        key_width: of all key heads, and of all value heads.
        window: how many keys a token sees at most.
    """

    query_width: int
    key_width: int
    window: float

    def flops(self, seqlen: int) -> float:
        """FLOPs of one token, as the mean over a sequence."""
        seen = min(seqlen, self.window)
        keys = seen - seen * (seen - 1) / (2 * seqlen)  # the first tokens see fewer
        return 4 * self.query_width * keys

    def cached(self, seqlen: int) -> int:
        """Numbers that a cache holds of a sequence."""
        return int(2 * self.key_width * min(seqlen, self.window))


@dataclass(frozen=True)
class GatedDeltaRule:
    """Linear attention with a state for each head (Yang et al. 2024, "Gated Delta Networks").

    Attributes:
        heads: of values, each with a state.
        key_size: rows of a state.
        value_size: columns of a state.
    """

    heads: int
    key_size: int
    value_size: int

    def flops(self, seqlen: int) -> float:
        """FLOPs of one token: three products with the state, and those within its chunk."""
        state = 6 * self.key_size * self.value_size
        return self.heads * (state + CHUNK * (4 * self.key_size + 2 * self.value_size))

    def cached(self, seqlen: int) -> int:
        """Numbers of the states, for a sequence of any length."""
        return self.heads * self.key_size * self.value_size


Mixing = SoftmaxAttention | GatedDeltaRule
