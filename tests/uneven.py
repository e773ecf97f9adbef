"""A tiny model cut to given widths, a layer at a time."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from secateur.models import adapter_of, declare_widths
from secateur.models.widths import keep_columns, keep_rows

WIDTHS = ((4, 96), (3, 40), (1, 33), (2, 64))


def cut_unevenly(model: PreTrainedModel, widths: Sequence[tuple[int, int]] = WIDTHS) -> PreTrainedModel:
    """Leave each layer of a tiny model so many key/value heads, with their query heads, and MLP channels."""
    adapter = adapter_of(model)
    for layer, (heads, channels) in zip(adapter.layers(model), widths, strict=True):
        query, key, value, output = adapter.attention_linears(layer)
        gate, up, down = adapter.mlp_linears(layer)
        group = query.out_features // key.out_features
        rows = heads * adapter.head_dim(layer)
        for linear in (key, value):
            keep_rows(linear, range(rows))
        keep_rows(query, range(group * rows))
        keep_columns(output, range(group * rows))
        for linear in (gate, up):
            keep_rows(linear, range(channels))
        keep_columns(down, range(channels))
    declare_widths(model)
    return model
