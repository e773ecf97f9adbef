"""Reading and setting the widths of decoder layers: query heads, key/value heads, MLP channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from secateur.models.adapters import ADAPTERS, Adapter, adapter_of

PER_LAYER_FIELDS = (
    "num_attention_heads_per_layer",
    "num_key_value_heads_per_layer",
    "intermediate_size_per_layer",
)


@dataclass(frozen=True)
class LayerWidths:
    """The widths of one decoder layer."""

    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int


def register_uneven_models() -> None:
    """Tell Transformers' Auto classes about the uneven families."""
    for adapter in ADAPTERS:
        AutoConfig.register(adapter.uneven_config.model_type, adapter.uneven_config, exist_ok=True)
        AutoModelForCausalLM.register(adapter.uneven_config, adapter.uneven_model, exist_ok=True)


def layer_widths(model: PreTrainedModel) -> list[LayerWidths]:
    """The widths of every decoder layer, read from the shapes of its weights."""
    adapter = adapter_of(model)
    return [_widths_of(adapter, layer) for layer in adapter.layers(model)]


def _widths_of(adapter: Adapter, layer: nn.Module) -> LayerWidths:
    query, key, _, _ = adapter.attention_linears(layer)
    _, _, down = adapter.mlp_linears(layer)
    head_dim = adapter.head_dim(layer)
    return LayerWidths(query.out_features // head_dim, key.out_features // head_dim, down.in_features)


def declare_widths(model: PreTrainedModel) -> None:
    """Make the model's config and class say what its layers' weights are, after a cut.

    Equal layers become the stock architecture with the new numbers where its config allows them (Llama's wants a
    number of heads that divides the hidden size); otherwise the model becomes the uneven class of its family, in
    place, with the same weights and modules.
    """
    adapter, widths = adapter_of(model), layer_widths(model)
    if len(set(widths)) == 1 and stock_allows(model, widths[0]):
        _set_class(model, adapter, uneven=False)
        for field in PER_LAYER_FIELDS:
            model.config.__dict__.pop(field, None)
        # Some stock configs leave the head size to hidden_size / heads, which a cut changes.
        model.config.head_dim = head_dim_of(model)
        model.config.num_attention_heads = widths[0].num_attention_heads
        model.config.num_key_value_heads = widths[0].num_key_value_heads
        model.config.intermediate_size = widths[0].intermediate_size
    else:
        _set_class(model, adapter, uneven=True)
        model.config.num_attention_heads_per_layer = [width.num_attention_heads for width in widths]
        model.config.num_key_value_heads_per_layer = [width.num_key_value_heads for width in widths]
        model.config.intermediate_size_per_layer = [width.intermediate_size for width in widths]
    for layer, width in zip(adapter.layers(model), widths, strict=True):
        setattr(adapter.mlp(layer), "intermediate_size", width.intermediate_size)  # noqa: B010


def _set_class(model: PreTrainedModel, adapter: Adapter, uneven: bool) -> None:
    model.config.__class__ = adapter.uneven_config if uneven else adapter.stock_config
    model.__class__ = adapter.uneven_model if uneven else adapter.stock_model
    model.config.architectures = [type(model).__name__]


def stock_allows(model: PreTrainedModel, width: LayerWidths) -> bool:
    """Whether the stock config of the model's family takes these widths for all layers."""
    settings = {key: value for key, value in model.config.to_dict().items() if key not in PER_LAYER_FIELDS}
    settings.update(
        num_attention_heads=width.num_attention_heads,
        num_key_value_heads=width.num_key_value_heads,
        intermediate_size=width.intermediate_size,
        head_dim=head_dim_of(model),
    )
    settings.pop("model_type", None)
    try:
        adapter_of(model).stock_config(**settings).validate()
    except (ValueError, StrictDataclassError):
        return False
    return True


def declared_widths(model: PreTrainedModel) -> list[LayerWidths]:
    """The widths that the config states, layer by layer, for checking them against the weights."""
    return widths_in(model.config)


def widths_in(config: Any) -> list[LayerWidths]:
    """The widths that a config states, layer by layer."""
    count = config.num_hidden_layers
    per_layer = [getattr(config, field, None) for field in PER_LAYER_FIELDS]
    even = (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size)
    columns = [values or [number] * count for values, number in zip(per_layer, even, strict=True)]
    return [LayerWidths(*row) for row in zip(*columns, strict=True)]


def is_uneven(model: PreTrainedModel) -> bool:
    """Whether the layers' widths stand one by one in the config."""
    return getattr(model.config, PER_LAYER_FIELDS[0], None) is not None


def head_dim_of(model: PreTrainedModel) -> int:
    """The width of a head, the same in all layers."""
    adapter = adapter_of(model)
    return adapter.head_dim(adapter.layers(model)[0])


def count_parameters(model: nn.Module) -> int:
    """All parameters; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def keep_rows(linear: nn.Linear, rows: Sequence[int] | torch.Tensor) -> None:
    """Keep only these outputs of a linear layer, in place."""
    index = torch.as_tensor(rows, device=linear.weight.device)
    linear.weight = nn.Parameter(linear.weight[index].clone(), linear.weight.requires_grad)
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias[index].clone(), linear.bias.requires_grad)
    linear.out_features = len(index)


@torch.no_grad()
def keep_columns(linear: nn.Linear, columns: Sequence[int] | torch.Tensor) -> None:
    """Keep only these inputs of a linear layer, in place."""
    index = torch.as_tensor(columns, device=linear.weight.device)
    linear.weight = nn.Parameter(linear.weight[:, index].clone(), linear.weight.requires_grad)
    linear.in_features = len(index)


register_uneven_models()
