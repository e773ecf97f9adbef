"""Sparse attention in diffusers' transformers: CogVideoX, Wan, Flux, HunyuanVideo and others with processors.

A processor computes queries, keys and values and calls PyTorch's scaled_dot_product_attention, itself (CogVideoX) or
through diffusers' attention dispatch. Each processor is wrapped, and that call is taken over while it runs. Attention
of a sequence to itself is made sparse; attention to another sequence, such as a prompt's, stays dense.
"""

import copy
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from secateur.attention.blocks import choose
from secateur.attention.config import TuneConfig
from secateur.attention.curve import Curve, pv_curve, threshold_curve
from secateur.attention.profile import AttentionProfile, LayerProfile
from secateur.attention.rules import LeftOut, Rule, rules_of
from secateur.attention.sparse import predict, sparse_attention
from secateur.attention.tuning import CDF_THRESHOLDS, PV_THRESHOLDS, with_cdf, with_pv
from secateur.errors import InputError, ModelError
from secateur.kernels import Backend
from secateur.models.fingerprint import sampled_values
from secateur.models.options import configured

FEWEST_BLOCKS = 2
ORIGINAL = "_secateur_original"

_applied: "weakref.WeakKeyDictionary[nn.Module, LeftOut]" = weakref.WeakKeyDictionary()


class Attend(Protocol):
    """What self-attention goes to: a call for each group of sequences of a length, after `begin`."""

    def begin(self) -> None:
        """A module's attention is called."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Queries (batch, heads, tokens, head_dim), keys and values (batch, kv_heads, seen tokens, head_dim)."""


class TakenOver(TorchFunctionMode):
    """Hands self-attention to a function while it is active; everything else goes its way."""

    def __init__(self, attend: Attend, fewest: int) -> None:
        super().__init__()
        self.attend = attend
        self.fewest = fewest

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if function is not functional.scaled_dot_product_attention:
            return function(*args, **options)
        query, key, value, mask, dropout, causal, scale = _arguments(*args, **options)
        seen = _keys_seen(mask, key)
        if query.shape[2] != key.shape[2] or query.shape[2] < self.fewest or causal or dropout or seen is None:
            return function(*args, **options)
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        self.attend.begin()
        output = torch.empty_like(query)
        for end in dict.fromkeys(seen):
            rows = [row for row, other in enumerate(seen) if other == end]
            output[rows] = self.attend(query[rows], key[rows, :, :end], value[rows, :, :end], factor)
        return output


def taken_over(processor: Any, attend: Attend, fewest: int) -> Any:
    """A copy of an attention processor, of a subclass of its class, whose self-attention goes to a function.

    Args:
        processor: of a module; its signature stays, which diffusers looks at.
        attend: what it goes to.
        fewest: tokens below which attention is left alone.
    """
    original, mode = type(processor).__call__, TakenOver(attend, fewest)

    @functools.wraps(original)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        with mode:
            return original(self, *arguments, **options)

    made = copy.copy(processor)
    made.__class__ = type(f"Sparse{type(processor).__name__}", (type(processor),), {"__call__": call})
    setattr(made, ORIGINAL, processor)
    return made


def apply(model: Any, profile: AttentionProfile | None = None, *, backend: Backend = "auto", **options: Any) -> LeftOut:
    """Make a diffusion transformer's self-attention sparse. `remove` undoes it.

    Args:
        model: a pipeline with a `transformer`, or the transformer.
        profile: tuned thresholds.
        backend: of the kernel.
        options: fields of `SparseOptions` instead of a profile: `apply(pipeline, topk=0.5)`.

    Raises:
        InputError: the profile is another model's, or nothing says what to leave out.
        ModelError: the model has no attention processors.
    """
    transformer = transformer_of(model)
    modules = attention_modules(transformer)
    if profile is not None:
        profile.require_model(_fingerprint(modules))
    rules = rules_of(profile, len(modules), backend, options)
    remove(transformer)
    applied = LeftOut()
    for module in modules:
        _require_native(module)
    for index, rule in rules.items():
        _wrap(modules[index], SparseAttend(rule, applied, index), FEWEST_BLOCKS * rule.blocks.query_block)
    _applied[transformer] = applied
    return applied


def remove(model: Any) -> None:
    """Give a transformer or pipeline its own attention processors back."""
    transformer = transformer_of(model)
    _applied.pop(transformer, None)
    for module in attention_modules(transformer):
        module.processor = getattr(module.processor, ORIGINAL, module.processor)


def tune(
    model: Any, runs: Sequence[Callable[[], Any]], config: TuneConfig | None = None, every: int = 10, **options: Any
) -> AttentionProfile:
    """Find thresholds for every head of a diffusion transformer.

    Each run goes through twice: once for the thresholds of blocks, once for those of P·V.

    Args:
        model: a pipeline with a `transformer`, or the transformer.
        runs: each calls the pipeline for one prompt; five are enough.
        config: bounds and blocks; its text is not used.
        every: one call of a module in so many is measured, since neighbouring denoising steps are alike.
        options: fields of `TuneConfig`, instead of `config` or over it.

    Raises:
        InputError: there are no runs, or nothing in them was long enough to leave blocks out.
        ModelError: the model has no attention processors.
    """
    config = configured(TuneConfig, config, options)
    if not runs:
        raise InputError("tuning needs at least one run of the pipeline; give five prompts")
    transformer = transformer_of(model)
    remove(transformer)
    modules = attention_modules(transformer)
    for module in modules:
        _require_native(module)
    profiles: dict[int, LayerProfile] = {}
    for second in (False, True):
        meters = [Meter(config, every, profiles.get(index) if second else None) for index in range(len(modules))]
        for module, meter in zip(modules, meters, strict=True):
            _wrap(module, meter, FEWEST_BLOCKS * config.query_block)
        try:
            for run in runs:
                run()
        finally:
            remove(transformer)
        for index, meter in enumerate(meters):
            if meter.curve is not None:
                profiles[index] = (
                    with_pv(profiles[index], meter.curve, config) if second else with_cdf(meter.curve, config)
                )
    if not profiles:
        raise InputError(f"no attention in these runs was over {FEWEST_BLOCKS * config.query_block} tokens or more")
    return AttentionProfile(
        layers=profiles,
        blocks=config.blocks(),
        fingerprint=_fingerprint(modules),
        tuning={
            "model": str(getattr(getattr(transformer, "config", None), "_name_or_path", "")),
            "windows": len(runs),
            "metric": config.metric,
            "l1": config.l1,
            "pv_l1": config.pv_l1,
        },
    )


class SparseAttend:
    """Attention over the blocks that a rule chooses."""

    def __init__(self, rule: Rule, applied: LeftOut, index: int) -> None:
        self.rule = rule
        self.applied = applied
        self.index = index

    def begin(self) -> None:
        pass

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        output, shares = sparse_attention(query, key, value, self.rule, False, scale)
        self.applied.add(self.index, shares)
        return output


class Meter:
    """Dense attention that adds up, for one call in so many, what leaving blocks out would cost."""

    def __init__(self, config: TuneConfig, every: int, profile: LayerProfile | None) -> None:
        self.config = config
        self.every = every
        self.profile = profile
        self.calls = -1
        self.curve: Curve | None = None

    def begin(self) -> None:
        self.calls += 1

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if self.calls % self.every == 0:
            measured = self._measured(query, key, value, scale)
            self.curve = measured if self.curve is None else self.curve.beside(measured)
        grouped = query.shape[1] != key.shape[1]
        return functional.scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=grouped)

    def _measured(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Curve:
        grid = self.config.grid(query.shape[2], key.shape[2], causal=False)
        prediction, metric = predict(query, key, grid, scale, self.config), self.config.metric
        if self.profile is None:
            return threshold_curve(query, key, value, prediction, grid, scale, CDF_THRESHOLDS, metric)
        chosen = choose(prediction, grid, self.profile.cdfthreshd)
        return pv_curve(query, key, value, chosen, grid, scale, PV_THRESHOLDS, metric)


def transformer_of(model: Any) -> nn.Module:
    """The transformer of a pipeline, or the model itself. Raises `ModelError` where there is none."""
    transformer = getattr(model, "transformer", model)
    if not isinstance(transformer, nn.Module):
        raise ModelError("this pipeline has no transformer; sparse attention is for transformers, not for U-Nets")
    return transformer


def attention_modules(transformer: nn.Module) -> list[Any]:
    """The modules with an attention processor, in the order in which they stand in the transformer."""
    modules = [cast(Any, module) for module in transformer.modules() if callable(getattr(module, "processor", None))]
    if not modules:
        raise ModelError(
            f"{type(transformer).__name__} has no attention processors; pass a pipeline or transformer of diffusers, "
            "or use secateur.attention.apply for a language model"
        )
    return modules


def _require_native(module: Any) -> None:
    backend = getattr(module.processor, "_attention_backend", None)
    if backend is not None and str(getattr(backend, "value", backend)) != "native":
        raise InputError(
            f"the transformer's attention backend is {backend}; call its reset_attention_backend() first, so that "
            "attention goes through PyTorch, where it is made sparse"
        )


def _wrap(module: Any, attend: Attend, fewest: int) -> None:
    module.processor = taken_over(module.processor, attend, fewest)


def _fingerprint(modules: Sequence[nn.Module]) -> Tensor:
    linears = [part for module in modules for part in module.modules() if isinstance(part, nn.Linear)]
    return sampled_values([linear.weight for linear in linears])


def _arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, float, bool, float | None]:
    """The arguments of scaled_dot_product_attention in order."""
    return query, key, value, attn_mask, dropout_p, is_causal, scale


def _keys_seen(mask: Tensor | None, key: Tensor) -> list[int] | None:
    """How many of each sequence's keys all its queries see, the first ones; None where a mask says otherwise."""
    length = key.shape[2]
    if mask is None:
        return [length] * len(key)
    if mask.dtype != torch.bool or mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[2] != 1:
        return None
    seen = mask[:, 0, 0].expand(len(key), length)
    counts = seen.sum(-1)
    first = torch.arange(length, device=mask.device) < counts[:, None]
    return counts.tolist() if bool((seen == first).all()) and bool((counts > 0).all()) else None
