"""Bytes of a model: its weights at the width in which they are stored, and its KV cache."""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.costs.config import MEMORY_CONTEXT, Targets
from secateur.costs.measure import Bytes
from secateur.models.adapters import adapter_of
from secateur.models.context import longest_text, require_length
from secateur.models.halves import PARTS, Half, Part
from secateur.models.widths import count_parameters
from secateur.rounding.config import LEAST_GROUP, Rounding, group_of

CACHE_BYTES = 2  # of a number in the cache: 16 bits, as engines keep it


def bytes_of(
    model: PreTrainedModel,
    targets: Targets,
    *,
    rounding: Rounding | None = None,
    stored: torch.dtype | None = None,
    context: int = MEMORY_CONTEXT,
) -> Bytes:
    """What a model takes in memory, half by half.

    Args:
        model: the uncut model; its weights may be on `meta`.
        targets: `bits`, `context`, `batch`.
        rounding: how what is left will be rounded, where the cut does so itself.
        stored: the number format of its files; what `secateur.save` writes unless given.
        context: tokens in the cache unless `targets` says otherwise.
    """
    kept = stored or getattr(model, "checkpoint_dtype", None) or model.dtype
    if rounding is None and targets.bits is not None:
        kept = torch.bfloat16
        rounding = None if targets.bits == 16 else Rounding(targets.bits, "auto", kept, 0.0)
    rest = kept.itemsize
    tokens = context_of(model, targets, context)
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
            stored_bytes = sum(bytes_of_matrix(linear, kept, rounding) for linear in half.linears)
            weights[name] = (stored_bytes + rest * others) / half.units
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


def bytes_of_matrix(linear: nn.Linear, kept: torch.dtype, rounding: Rounding | None) -> float:
    """Bytes of a projection's weights in a number format, or rounded with a scale of that format for each group."""
    weights = linear.weight.numel()
    if rounding is None:
        return float(weights * kept.itemsize)
    group = group_of(rounding.group, linear.in_features) or LEAST_GROUP
    return weights * (rounding.bits / 8 + kept.itemsize / group)


def context_of(model: PreTrainedModel, targets: Targets, usual: int) -> int:
    """Tokens that are there before the last one. Raises `InputError` where more are asked for than the model takes."""
    if targets.context is not None:
        require_length(model, targets.context, "texts", "--context")
        return targets.context
    return min(usual, longest_text(model) or usual)


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
