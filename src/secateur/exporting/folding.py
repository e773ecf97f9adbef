"""Numbers that a model multiplies by and llama.cpp's graph does not: they go into the weights beside them."""

import math
from dataclasses import dataclass
from typing import Any

from secateur.exporting.layout import Layout
from secateur.models.widths import first_with_heads


@dataclass(frozen=True)
class Factors:
    """What weights are multiplied by.

    Attributes:
        query: those that make queries: the norm over each head, or the projection where there is none.
        rotated_query: what of the projection of queries makes rotated values, beside `query`.
        residual: what makes the summands of the residual stream.
        embedding: the embeddings.
        final_norm: the norm before the head.
    """

    query: float = 1.0
    rotated_query: float = 1.0
    residual: float = 1.0
    embedding: float = 1.0
    final_norm: float = 1.0


def factors_of(config: Any, layout: Layout, tied: bool) -> Factors:
    """The factors that carry a model's own multipliers into a graph without them.

    Args:
        config: the model's.
        tied: whether the head multiplies by the embeddings.
    """
    graph, head_dim = layout.graph, layout.head_dim
    if layout.rope.long_factors is None and layout.rope.attention_factor != 1.0:
        # Queries' share and keys' share of the scores.
        return Factors(rotated_query=layout.rope.attention_factor**2)
    scalar = getattr(config, "query_pre_attn_scalar", None)
    if scalar is not None:
        large = len(layout.widths) == graph.large
        divided_by = config.hidden_size // first_with_heads(layout.widths).num_attention_heads if large else head_dim
        return Factors(query=math.sqrt(divided_by / scalar))
    if graph.scaled or not hasattr(config, "embedding_multiplier"):
        return Factors()
    embedding = config.embedding_multiplier
    return Factors(
        query=config.attention_multiplier * math.sqrt(head_dim),
        residual=config.residual_multiplier,
        embedding=embedding,
        final_norm=1 / (config.logits_scaling * (embedding if tied else 1.0)),
    )
