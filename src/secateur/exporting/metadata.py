"""What the header of a GGUF file says of a model's shape and of how it computes."""

import logging
from collections.abc import Sequence
from typing import Any

import gguf

from secateur.exporting.layout import Layout, window_step
from secateur.exporting.linear_attention import write_linear_attention
from secateur.exporting.rope import Rope
from secateur.models import LayerWidths

logger = logging.getLogger(__name__)

# By the config's setting. What a config does not have or sets to none, is left out.
SETTINGS = {
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "norm_epsilon": "attention.layer_norm_epsilon",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
OWN_WIDTHS = {
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "intermediate_size": "feed_forward_length",
}
OF_GRANITE = {
    "logits_scaling": "logit_scale",
    "residual_multiplier": "residual_scale",
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
}


def write_shape(writer: gguf.GGUFWriter, config: Any, layout: Layout, rows: int, own: Sequence[LayerWidths]) -> None:
    """Add the keys of an architecture, and of what is filled up with zeros, for reading it back, what the model has.

    Args:
        config: the model's.
        rows: of the embeddings.
        own: the model's widths.
    """
    if list(own) != list(layout.widths):
        for field, key in OWN_WIDTHS.items():
            writer.add_array(f"secateur.{key}", [getattr(width, field) for width in own])
    writer.add_context_length(_context_length(config, layout))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(layout.widths))
    writer.add_vocab_size(rows)
    writer.add_head_count(_column(layout, "num_attention_heads"))
    writer.add_head_count_kv(_column(layout, "num_key_value_heads"))
    writer.add_feed_forward_length(_column(layout, "intermediate_size"))
    writer.add_key_length(layout.head_dim)
    writer.add_value_length(layout.head_dim)
    for setting, key in {**SETTINGS, **(OF_GRANITE if layout.graph.scaled else {})}.items():
        value = getattr(config, setting, None)
        if value is not None:
            writer.add_float32(f"{layout.graph.name}.{key}", value)
    for setting, key in layout.graph.more.items():
        value, name = getattr(config, setting), f"{layout.graph.name}.{key}"
        (writer.add_bool if isinstance(value, bool) else writer.add_float32)(name, value)
    if layout.graph.windows:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern(window_step(config))
    if layout.graph.linear_attention:
        write_linear_attention(writer, config, layout.rope.rotated)
    _add_rope(writer, layout.rope, layout.graph.name)
    beta = config.rope_parameters.get("llama_4_scaling_beta")
    if beta:
        writer.add_attn_temperature_scale(beta)
        if layout.rope.scaling != "yarn":  # llama.cpp counts by yarn's original length, whatever the scaling is
            writer.add_rope_scaling_orig_ctx_len(config.rope_parameters["original_max_position_embeddings"])


def _add_rope(writer: gguf.GGUFWriter, rope: Rope, architecture: str) -> None:
    writer.add_rope_dimension_count(rope.rotated)
    writer.add_rope_freq_base(rope.base)
    if rope.window_base is not None:
        writer.add_float32(f"{architecture}.rope.freq_base_swa", rope.window_base)
    if rope.long_factors is not None:
        writer.add_rope_scaling_attn_factors(rope.attention_factor)
    if rope.scaling is not None and rope.original_length:
        writer.add_rope_scaling_orig_ctx_len(rope.original_length)
    if rope.log_multiplier:
        writer.add_rope_scaling_yarn_log_mul(rope.log_multiplier)
    if rope.scaling in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope.scaling))
        writer.add_rope_scaling_factor(rope.factor)


def _context_length(config: Any, layout: Layout) -> int:
    """Positions that the model was made for, at most as many as the graph computes as the model does."""
    longest = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    if window is not None and window < longest and not layout.graph.windows:
        logger.warning(
            "The model attends to the last %d tokens only and llama.cpp, in this architecture, to all: the same up "
            "to %d tokens, which is the context length in the file",
            window,
            window,
        )
        longest = int(window)
    original = layout.rope.original_length
    if layout.rope.scaling != "yarn" and 0 < original < longest:
        logger.warning(
            "Up to %d tokens the model has other rotary positions than beyond, and llama.cpp takes one of the two for "
            "all of a text: %d is the context length in the file",
            original,
            original,
        )
        longest = original
    return longest


def _column(layout: Layout, field: str) -> int | list[int]:
    """One of the widths: a number where all layers have the same, in the architectures of even models, else a list."""
    values = [getattr(width, field) for width in layout.widths]
    return values if layout.per_layer else values[0]
