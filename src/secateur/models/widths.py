"""Reading and setting the widths of decoder layers: query heads, key/value heads, MLP channels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from secateur.errors import ModelError
from secateur.models.adapters import Adapter, adapter_of, is_uneven_type
from secateur.models.halves import PARTS, Half, Part
from secateur.models.modeling_secateur import auto_map_of, give_layers_their_configs, of_one_width, own_by_layer

# Of the configs of families: lists with an entry for each layer.
LISTS_BY_LAYER = ("layer_types", "no_rope_layers")


@dataclass(frozen=True)
class LayerWidths:
    """The widths of one decoder layer; 0 for all of a half that it goes without."""

    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int


def layer_widths(model: PreTrainedModel) -> list[LayerWidths]:
    """The widths of every decoder layer, read from the shapes of its weights."""
    adapter = adapter_of(model)
    layers = adapter.layers(model)
    attentions = [adapter.half(layer, "attention") for layer in layers]
    # Linear attention has no such heads; it is given those of the first layer that has some.
    usual = next((half for half in attentions if half.heads), None)
    return [
        _widths_of(attention if attention.names.softmax or usual is None else usual, adapter.half(layer, "mlp"))
        for layer, attention in zip(layers, attentions, strict=True)
    ]


def _widths_of(attention: Half, mlp: Half) -> LayerWidths:
    return LayerWidths(attention.heads, attention.key_value_heads, mlp.units)


def declare_widths(model: PreTrainedModel) -> None:
    """Make the model's config and class say what its layers' weights are, after a cut.

    Equal layers become the stock architecture with the new numbers where its config allows them (Llama's wants a
    number of heads that divides the hidden size); otherwise the model becomes the uneven class of its family, in
    place, with the same weights and modules.
    """
    _take_out_empty_layers(model)
    adapter, widths = adapter_of(model), layer_widths(model)
    config, own = model.config, own_by_layer(model.config)
    if not own:
        # Some stock configs leave the head size to hidden_size / heads, which a cut changes.
        config.head_dim = head_dim_of(model)
    stock = _stock_settings(config, widths)
    config.per_layer_config = None
    for name, value in (stock or {}).items():
        setattr(config, name, value)
    uneven = stock is None or (not own and not stock_allows(model, widths[0]))
    _set_class(model, adapter, uneven)
    for name in ("skipped_modules", "square_attention"):
        config.__dict__.pop(name, None)
    square = square_attention(adapter)
    if uneven and square:
        config.square_attention = square
    if stock is None:
        config.skipped_modules = skipped_modules(adapter) if any(map(skipped, widths)) else None
        config.per_layer_config = {
            layer: {**own.get(layer, {}), **overrides(width)} for layer, width in enumerate(widths)
        }
        if own:
            config.use_double_wide_mlp = False  # each layer's width is said
    elif own:
        config.per_layer_config = {
            layer: {**own[layer], "num_key_value_heads": width.num_key_value_heads}
            for layer, width in enumerate(widths)
        }
    give_layers_their_configs(config, adapter.layers(model))
    for layer, width in zip(adapter.layers(model), widths, strict=True):
        for part in PARTS:
            _tell(adapter.half(layer, part), width)


def _stock_settings(config: PreTrainedConfig, widths: Sequence[LayerWidths]) -> dict[str, int] | None:
    """What the stock config has to say for layers of these widths; None where it cannot.

    A family whose code reads some widths layer by layer may have other key/value heads in each kind of layer, and
    MLPs that are twice as wide in those that share keys and values.
    """
    if not own_by_layer(config):
        return asdict(widths[0]) if len(set(widths)) == 1 else None
    heads = {width.num_attention_heads for width in widths}
    channels = {width.intermediate_size / mlp_factor(config, layer) for layer, width in enumerate(widths)}
    kinds = {(kind, width.num_key_value_heads) for kind, width in zip(config.layer_types, widths, strict=True)}
    if len(heads) > 1 or len(channels) > 1 or len(kinds) > len(set(config.layer_types)):
        return None
    return {
        "num_attention_heads": heads.pop(),
        "num_key_value_heads": widths[0].num_key_value_heads,
        "intermediate_size": int(channels.pop()),
    }


def mlp_factor(config: Any, layer: int) -> int:
    """How many times `intermediate_size` a layer's MLP is wide."""
    wide = getattr(config, "use_double_wide_mlp", False)
    return 2 if wide and config.kv_sharing_modes[layer] == "reuse" else 1


def _take_out_empty_layers(model: PreTrainedModel) -> None:
    """Take layers out that go without both halves, and what the config says of each of them in lists."""
    config, layers = model.config, adapter_of(model).layers(model)
    if adapter_of(model).end is not None:  # its layers do more than halves do
        return
    left = [index for index, width in enumerate(layer_widths(model)) if len(skipped(width)) < len(PARTS)]
    before = len(layers)
    if len(left) == before:
        return
    config.per_layer_config = None
    for name in LISTS_BY_LAYER:
        entries = getattr(config, name, None)
        if entries is not None:
            setattr(config, name, [entries[index] for index in left])
    for index in sorted(set(range(before)) - set(left), reverse=True):
        del layers[index]
    config.num_hidden_layers = len(layers)
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if "layer_idx" in vars(module):
                vars(module)["layer_idx"] = index


def skipped(width: LayerWidths) -> list[Part]:
    """The halves that a layer of these widths goes without."""
    widths = zip(PARTS, (width.num_attention_heads, width.intermediate_size), strict=True)
    return [part for part, units in widths if not units]


def overrides(width: LayerWidths) -> dict[str, Any]:
    """What `per_layer_config` says of a layer."""
    there: dict[str, Any] = {name: value for name, value in asdict(width).items() if value}
    return {**there, "skip": skipped(width)} if skipped(width) else there


def skipped_modules(adapter: Adapter) -> dict[str, list[str]]:
    """The names of what a layer lacks that goes without a half, for the code beside the weights."""
    return {names.part: [*adapter.own_modules(names)] for names in adapter.halves if names.divisible}


def square_attention(adapter: Adapter) -> list[str]:
    """The names of an attention whose class reads its widths from the hidden size, and of its projections; or none."""
    names = next(names for names in adapter.halves if names.part == "attention" and names.divisible)
    return [names.mixer, *names.inputs, names.output] if names.fills_hidden_size else []


def _tell(half: Half, width: LayerWidths) -> None:
    """Set the numbers that a stock module has taken down of its widths."""
    if half.names.divisible and not half.is_absent:
        for name, value in asdict(width).items():
            if name in vars(half.mixer):
                setattr(half.mixer, name, value)


def _set_class(model: PreTrainedModel, adapter: Adapter, uneven: bool) -> None:
    config, body = model.config, adapter.body(model)
    config.__class__ = adapter.uneven_config if uneven else adapter.stock_config
    model.__class__ = adapter.uneven_model if uneven else adapter.stock_model
    body.__class__ = adapter.uneven_body if uneven else adapter.stock_body
    for module in (model, body):
        # Transformers notes what outputs a class records (output_hidden_states) when one of it is made.
        dict.__setitem__(_CAN_RECORD_REGISTRY, str(type(module)), getattr(module, "_can_record_outputs", None))
    # Rotary positions know one width of layers.
    rotary = adapter.rotary_positions(model)
    if rotary is not None:
        rotary.config = of_one_width(config) if uneven else config
    config.architectures = [type(model).__name__]
    # The class says the type; the others name code beside weights of other widths.
    for name in ("model_type", "auto_map", "model_file"):
        config.__dict__.pop(name, None)
    if uneven:
        config.auto_map = auto_map_of(adapter.uneven_config)
        # Names that the stock class's files have for some weights are not read into another class.
        model._weight_conversions = None  # type: ignore[assignment]


def stock_allows(model: PreTrainedModel, width: LayerWidths) -> bool:
    """Whether the stock config of the model's family takes these widths for all layers."""
    if square_attention(adapter_of(model)) and width.num_attention_heads * head_dim_of(model) != (
        model.config.hidden_size
    ):
        return False
    settings = of_one_width(model.config).to_dict()
    settings.update(**asdict(width), head_dim=head_dim_of(model))
    for name in ("model_type", "auto_map"):
        settings.pop(name, None)
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
    widths = [widths_of(layer) for layer in config.per_layer_config]
    return [
        replace(width, intermediate_size=width.intermediate_size * mlp_factor(config, layer))
        for layer, width in enumerate(widths)
    ]


def widths_of(layer_config: Any) -> LayerWidths:
    """The widths that the config of one layer states."""
    skip = getattr(layer_config, "skip", None) or ()
    return LayerWidths(
        0 if "attention" in skip else layer_config.num_attention_heads,
        0 if "attention" in skip else getattr(layer_config, "num_key_value_heads", layer_config.num_attention_heads),
        0 if "mlp" in skip else layer_config.intermediate_size,
    )


def is_uneven(model: PreTrainedModel) -> bool:
    """Whether the model is of secateur's class for layers with widths of their own."""
    return is_uneven_type(model.config.model_type)


def first_with_heads(widths: Sequence[LayerWidths]) -> LayerWidths:
    """The first layer that has attention."""
    return next(width for width in widths if width.num_attention_heads)


def heads_make_up_hidden_size(config: PreTrainedConfig) -> bool:
    """Whether the query heads of the first layer are together as wide as the hidden states; some engines rely on it."""
    heads = first_with_heads(widths_in(config)).num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return bool(heads * head_dim == config.hidden_size)


def head_dim_of(model: PreTrainedModel) -> int:
    """The width of a head, in most families the same in all layers with softmax attention: in the first.

    Raises:
        ModelError: no layer has softmax attention.
    """
    adapter = adapter_of(model)
    halves = (adapter.half(layer, "attention") for layer in adapter.layers(model))
    head_dim = next((half.head_dim for half in halves if half.heads), None)
    if head_dim is None:
        raise ModelError(
            "no layer of this model has softmax attention; its units cannot be cut, nor can it be exported"
        )
    return head_dim


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
