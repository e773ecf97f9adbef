"""Sparse attention in Transformers' models, through their `AttentionInterface`."""

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from secateur.attention.config import SparseOptions
from secateur.attention.options import ApplyOptions
from secateur.attention.profile import AttentionProfile
from secateur.attention.rules import LeftOut, Rule, rules_of
from secateur.attention.sparse import Span, dense_attention, spans_of, sparse_attention
from secateur.console import counted
from secateur.errors import ModelError
from secateur.kernels import Backend
from secateur.models.adapters import adapter_of
from secateur.models.fingerprint import sampled_weights
from secateur.models.lora import underlying
from secateur.models.options import takes_options
from secateur.models.widths import layer_widths

Seen = Callable[[int, Tensor, Tensor, Tensor, float], None]

_numbers = itertools.count()
_applied: "weakref.WeakKeyDictionary[PreTrainedModel, Applied]" = weakref.WeakKeyDictionary()


@dataclass(eq=False, repr=False)
class Applied(LeftOut):
    """Sparse attention at work in a model.

    Attributes:
        rules: what each layer leaves out; layers that are not there are dense.
        name: of the attention implementation.
        before: the implementation that the model had.
    """

    rules: dict[int, Rule]
    name: str
    before: str
    _mask: tuple[weakref.ref[Tensor], list[Span] | None] | None = None

    def __repr__(self) -> str:
        layers = ", ".join(map(str, sorted(self.rules))) or "none"
        return (
            f"Applied(sparse in {counted(len(self.rules), 'layer')} ({layers}), {self.name} in place of {self.before})"
        )

    def forward(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **arguments: Any,
    ) -> tuple[Tensor, None]:
        """A function of the interface: tensors (batch, heads, tokens, head_dim), output (batch, tokens, heads, …)."""
        causal = arguments.get("is_causal")
        window = arguments.get("sliding_window")
        windowed = window is not None and window < key.shape[2]
        plain = causal is not False and not windowed and arguments.get("s_aux") is None
        rule = self._rule(module, query, dropout) if plain else None
        spans = self._spans(attention_mask, query, key) if rule else None
        if rule is None or spans is None:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **arguments
            )
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        output = torch.zeros_like(query)
        for span in spans:
            whole = len(span.rows) == len(query)
            rows: Any = slice(None) if whole else span.rows
            # Queries stand at the span's end; those before its first key are padding.
            queries = min(query.shape[2], span.end - span.first)
            some_queries = query[rows, :, -queries:]
            keys, values = (part[rows, :, span.first : span.end] for part in (key, value))
            if queries < rule.blocks.query_block:
                output[rows, :, -queries:] = dense_attention(some_queries, keys, values, scale)
                continue
            part, shares = sparse_attention(some_queries, keys, values, rule, True, scale)
            output[rows, :, -queries:] = part
            self.add(int(module.layer_idx), shares)  # type: ignore[arg-type]
        return output.transpose(1, 2).contiguous(), None

    def _rule(self, module: nn.Module, query: Tensor, dropout: float) -> Rule | None:
        """The layer's rule where the call is a prefill that it can serve."""
        rule = self.rules.get(int(module.layer_idx))  # type: ignore[arg-type]
        if rule is None or query.shape[2] < rule.blocks.query_block or dropout or query.requires_grad:
            return None
        return rule

    def _spans(self, mask: Tensor | None, query: Tensor, key: Tensor) -> list[Span] | None:
        """The batch's spans; the mask is the same in every layer, so it is looked at once."""
        if mask is None:
            # Without a mask query i sees the keys up to i; a static cache has room for more behind them.
            return [Span(list(range(len(query))), 0, query.shape[2])]
        if self._mask is None or self._mask[0]() is not mask:
            self._mask = weakref.ref(mask), spans_of(mask) if mask.shape[:2] == (len(query), 1) else None
        return self._mask[1]


@takes_options(SparseOptions)
def apply(
    model: PreTrainedModel | PeftModel,
    profile: AttentionProfile | None = None,
    *,
    backend: Backend = "auto",
    **options: Unpack[ApplyOptions],
) -> Applied:
    """Make a model's prefill sparse; decoding with a cache stays dense. `remove` undoes it.

    Prefills of fewer queries than a block, layers with a sliding window, masks that are not causal over one run of
    tokens per sequence, and calls that are differentiated are computed densely.

    Args:
        model: a model of a supported family, with an adapter of PEFT or without. Its modules stay as they are.
        profile: tuned thresholds of its heads.
        backend: of the kernel.
        options: fields of `SparseOptions` instead of a profile: `apply(model, topk=0.5)`.

    Returns:
        What is at work: its `sparsity` is the share of blocks left out since it was applied.

    Raises:
        InputError: the profile is another model's, or nothing says what to leave out.
        ModelError: the family is not supported.
    """
    model = underlying(model)
    require_uncapped(model)
    layers = len(adapter_of(model).layers(model))
    if profile is not None:
        profile.require_model(sampled_weights(model))
        profile.require_heads([widths.num_attention_heads for widths in layer_widths(model)])
    rules = rules_of(profile, layers, backend, options)
    remove(model)
    applied = Applied(rules, f"secateur_sparse_{next(_numbers)}", model.config._attn_implementation)
    AttentionInterface.register(applied.name, applied.forward)
    AttentionMaskInterface.register(applied.name, sdpa_mask)
    model.set_attn_implementation(applied.name)
    _applied[model] = applied
    weakref.finalize(model, _make_dense, applied.name)
    return applied


def require_uncapped(model: PreTrainedModel) -> None:
    """Raise `ModelError` where attention scores are capped: no attention that leaves blocks out does that."""
    if getattr(model.config, "attn_logit_softcapping", None):
        raise ModelError(
            f"this {adapter_of(model).model_type} caps its attention scores (attn_logit_softcapping), which neither "
            "PyTorch's attention nor the sparse one does; its attention can only be dense"
        )


def remove(model: PreTrainedModel | PeftModel) -> None:
    """Give a model back the attention it had before `apply`; nothing happens where there is none."""
    model = underlying(model)
    applied = _applied.pop(model, None)
    if applied is not None:
        model.set_attn_implementation(applied.before)
        _make_dense(applied.name)


@contextmanager
def watching(model: PreTrainedModel, seen: Seen) -> Iterator[None]:
    """Hand each layer's queries, keys and values to a function while the block runs; attention itself is dense.

    Args:
        model: a model of a supported family.
        seen: takes the layer's index, query (batch, heads, tokens, head_dim), key and value (batch, kv_heads, tokens,
            head_dim), and the factor of the scores.
    """
    require_uncapped(model)
    name, before = f"secateur_watch_{next(_numbers)}", model.config._attn_implementation

    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
    ) -> tuple[Tensor, None]:
        scaling = arguments.get("scaling") or query.shape[-1] ** -0.5
        seen(int(module.layer_idx), query, key, value, scaling)  # type: ignore[arg-type]
        return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)

    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, sdpa_mask)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        _forget(name)


def _make_dense(name: str) -> None:
    # A copy of the model, or one with the same configuration object, may still go by this name.
    AttentionInterface.register(name, sdpa_attention_forward)


def _forget(name: str) -> None:
    for interface in (AttentionInterface, AttentionMaskInterface):
        interface._global_mapping.pop(name, None)
