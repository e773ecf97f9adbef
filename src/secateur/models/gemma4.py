"""Gemma 4's layers: what they do beside attention and MLP, and which of them share keys and values.

After its MLP a layer adds what it makes of an embedding of its own of each token, where the family's member has such,
and multiplies the residual stream by a number. Later layers may use the keys and values of the last layer of their kind
that has some: neither can such attention lose heads by itself, nor that whose keys and values they are.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from secateur.models.adapters import Adapter
from secateur.models.halves import HalfNames
from secateur.models.unsupported import EXPERTS


def shares_keys(layer: nn.Module) -> bool:
    """Whether a layer's attention uses another's keys and values, or others use its own."""
    attention: Any = layer.self_attn
    if attention.is_kv_shared_layer:
        return True
    config, kind = attention.config, attention.layer_type
    users = zip(config.layer_types, config.kv_sharing_modes, strict=True)
    return bool(attention.store_full_length_kv and (kind, "reuse") in users)


def end_of_layer(layer: nn.Module, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """The residual stream after a layer, (batch, seq, hidden_size), given the one after its MLP."""
    its: Any = layer
    if getattr(its, "hidden_size_per_layer_input", 0):
        gated = its.act_fn(its.per_layer_input_gate(hidden)) * arguments["per_layer_input"]
        hidden = hidden + its.post_per_layer_input_norm(its.per_layer_projection(gated))
    return cast(Tensor, hidden * its.layer_scalar)


def per_layer_input(body: nn.Module, tokens: Tensor, index: int) -> dict[str, Tensor]:
    """A layer's own embeddings of tokens, (batch, seq, hidden_size_per_layer_input); none where there are none.

    As `get_per_layer_inputs` and `project_per_layer_inputs` of Transformers' model, for one layer of all.
    """
    its: Any = body
    size = its.hidden_size_per_layer_input
    if not size:
        return {}
    rows = slice(index * size, (index + 1) * size)
    table, projection = its.embed_tokens_per_layer, its.per_layer_model_projection
    own = functional.embedding(tokens, table.weight[:, rows]) * table.embed_scale.to(table.weight.dtype)
    made = functional.linear(its.embed_tokens(tokens), projection.weight[rows]) * its.per_layer_model_projection_scale
    return {"per_layer_input": (its.per_layer_projection_norm(made) + own) * its.per_layer_input_scale}


ARGUMENTS = ("position_embeddings", "attention_mask", "shared_kv_states", "position_ids")


def adapters(attention: HalfNames, mlp: HalfNames) -> tuple[Adapter, Adapter]:
    """The tables of the family and of its members without encoders, of the halves of Gemma 3."""
    own = replace(attention, arguments=ARGUMENTS, may_leave=False)
    shared = replace(
        own,
        inputs=dict.fromkeys(own.inputs, ()),
        divisible=False,
        stays_as="attention that shares keys and values with that of other layers",
        of_layers=shares_keys,
    )
    table = Adapter(
        "gemma4_text",
        (shared, own, replace(mlp, may_leave=False)),
        partial_rotary=True,
        rope_by_layer_type=True,
        end=end_of_layer,
        of_tokens=per_layer_input,
        refused={"enable_moe_block": EXPERTS},
    )
    return table, replace(table, model_type="gemma4_unified_text", of_tokens=None, refused=None)
