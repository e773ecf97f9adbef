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
        heads: whose attention matrices are made; 0 where a kernel passes over them block by block.
    """

    query_width: int
    key_width: int
    window: float
    heads: int = 0

    def flops(self, seqlen: int) -> float:
        """FLOPs of one token, as the mean over a sequence."""
        seen = min(seqlen, self.window)
        keys = seen - seen * (seen - 1) / (2 * seqlen)  # the first tokens see fewer
        return 4 * self.query_width * keys

    def cached(self, seqlen: int) -> int:
        """Numbers that a cache holds of a sequence."""
        return int(2 * self.key_width * min(seqlen, self.window))

    def held(self, seqlen: int, width: int) -> float:
        """Bytes of a token's attention beside what its projections give: scores, softmax in float32, weights.

        Args:
            seqlen: of the sequence.
            width: bytes of a number.
        """
        return self.heads * seqlen * (2 * width + 4)


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

    def held(self, seqlen: int, width: int) -> float:
        """Bytes of a token beside what its projections give, as the code without its own kernels holds them.

        In float32, five times each: matrices within a chunk, keys and values.

        Args:
            seqlen: of the sequence; it makes no difference.
            width: bytes of a number; it makes none.
        """
        return self.heads * 4 * 5 * (CHUNK + self.key_size + self.value_size)


Mixing = SoftmaxAttention | GatedDeltaRule
