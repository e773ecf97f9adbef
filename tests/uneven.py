"""A tiny model cut to given widths, a layer at a time."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from secateur.models import adapter_of, declare_widths
from secateur.models.halves import PARTS
from secateur.pruning.units import keep_units

WIDTHS = ((4, 96), (3, 40), (1, 33), (2, 64))


def cut_unevenly(model: PreTrainedModel, widths: Sequence[tuple[int, int]] = WIDTHS) -> PreTrainedModel:
    """Leave each layer of a tiny model at most so many key/value heads, with their query heads, and MLP channels."""
    adapter = adapter_of(model)
    for layer, (heads, channels) in zip(adapter.layers(model), widths, strict=True):
        for part, units in zip(PARTS, (heads, channels), strict=True):
            half = adapter.half(layer, part)
            if half.names.divisible:
                keep_units(half, torch.arange(min(units, half.units)))
    declare_widths(model)
    return model
