"""Bytes of a model: its weights at the width in which they are stored, and its KV cache."""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.costs.config import MEMORY_CONTEXT, Targets
from secateur.costs.measure import Bytes
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Half, Part
from secateur.models.widths import count_parameters

CACHE_BYTES = 2  # of a number in the cache: 16 bits, as engines keep it
GROUP = 128  # weights that share a scale
SCALE_BITS = 16


def bytes_of(
    model: PreTrainedModel, targets: Targets, *, stored: torch.dtype | None = None, context: int = MEMORY_CONTEXT
) -> Bytes:
    """What a model takes in memory, half by half.

    Args:
        model: the uncut model; its weights may be on `meta`.
        targets: `bits`, `context`, `batch`.
        stored: the number format of its files; what `secateur.save` writes unless given.
        context: tokens in the cache unless `targets` says otherwise.
    """
    rest = (stored or getattr(model, "checkpoint_dtype", None) or model.dtype).itemsize
    matrix = float(rest)
    if targets.bits is not None:
        rest, matrix = 2, bytes_of_weight(targets.bits)
    tokens = context_of(model.config, targets, context)
    adapter = adapter_of(model)
    units: dict[tuple[int, Part], int] = {}
    weights, cached, whole = (dict[tuple[int, Part], float]() for _ in range(3))
    counted_matrices, counted_others, state = 0, 0, 0
    for index, layer in enumerate(adapter.layers(model)):
        for part in PARTS:
            half, name = adapter.half(layer, part), (index, part)
            units[name] = half.units
            if half.is_absent:
                weights[name] = cached[name] = 0.0
                continue
            matrices, others, own = _parameters(half)
            weights[name] = (matrix * matrices + rest * others) / half.units
            whole[name] = float(rest * own)
            counted_matrices, counted_others = counted_matrices + matrices, counted_others + others + own
            seen = min(tokens, window_of(model.config, index))
            numbers = 2 * half.cached_heads * half.head_dim * seen if part == "attention" and half.heads else 0
            cached[name] = CACHE_BYTES * targets.batch * numbers / half.units
            state += _state(half)
    # What is counted half by half, and the rest of the model: embeddings, head, norms, routers.
    others = count_parameters(model) - counted_matrices - counted_others
    states = float(CACHE_BYTES * targets.batch * state)
    return Bytes(
        units=units,
        fixed=rest * others + states,
        target=targets.wanted if targets.target_option == "target_memory" else math.inf,
        asked=targets.target_text,
        weights=weights,
        cached=cached,
        whole_halves=whole,
        fixed_cache=states,
        passed_over=float(rest * _looked_up(model)),
    )


def bytes_of_weight(bits: int) -> float:
    """Bytes of a weight in so many bits; with fewer than 16 a group of them has a scale."""
    return (bits + (SCALE_BITS / GROUP if bits < 16 else 0)) / 8


def context_of(config: PreTrainedConfig, targets: Targets, usual: int) -> int:
    """Tokens that are there before the last one."""
    most = getattr(config, "max_position_embeddings", None)
    return targets.context or (min(usual, most) if most else usual)


def window_of(config: PreTrainedConfig, index: int) -> float:
    """How many keys a token of a layer sees at most: as Transformers' caches read a config."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds: list[str] | None = getattr(config, "layer_types", None)
    if window is None or (kinds is not None and kinds[index] != "sliding_attention"):
        return math.inf
    return window


def _looked_up(model: PreTrainedModel) -> int:
    """Parameters of the embeddings, where the head has weights of its own."""
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    return 0 if head.weight is embeddings.weight else int(embeddings.weight.numel())


def _parameters(half: Half) -> tuple[int, int, int]:
    """Of a half the weights of its projections, what else leaves unit by unit, and what leaves with all of it."""
    matrices = sum(linear.weight.numel() for linear in half.linears)
    others = sum(linear.bias.numel() for linear in half.inputs.values() if linear.bias is not None)
    others += sum(linear.out_features for _, linear, _ in half.whole_norms())
    others += sum(module.get_parameter(name).numel() for module, name, _ in half.per_head())
    if not (half.names.may_leave and half.names.divisible):
        return matrices, others, 0
    modules = nn.ModuleList(getattr(half.layer, name) for name in half.modules)
    return matrices, others, count_parameters(modules) - matrices - others


def _state(half: Half) -> int:
    """Numbers that linear attention keeps of a sequence of any length."""
    mixer: Any = half.mixer
    if half.part == "mlp" or half.names.softmax:
        return 0
    return int(mixer.num_v_heads * mixer.head_k_dim * mixer.head_v_dim)
