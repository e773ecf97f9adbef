"""Decoder models whose layers have widths of their own: Transformers' `per_layer_config`, read layer by layer.

secateur saves this file beside the weights of an uneven model. Without secateur installed such a model loads with
`AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)`; the file needs Transformers and PyTorch only.
`UnevenLlamaForCausalLM` and the others are made when they are asked for, of the stock classes they are named after.
"""

import copy
import functools
import typing

import torch
import transformers
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

PREFIX = "secateur_"  # of the model_type
NAMED = "Uneven"  # and of the classes' names
WIDTHS = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
# What else the code of a family reads layer by layer, of its own.
OWN_BY_LAYER = {"gemma4_text": ("head_dim",), "gemma4_unified_text": ("head_dim",)}
HALVES = ("attention", "mlp")  # what `skip` of a layer may name


def per_layer_config_of_lists(settings):
    """`per_layer_config` from the lists, one number per layer, in which earlier directories say it; None without.

    Args:
        settings: the content of a `config.json`; the lists are taken out of it.
    """
    lists = {name: settings.pop(f"{name}_per_layer", None) for name in WIDTHS}
    lists = {name: numbers for name, numbers in lists.items() if numbers is not None}
    if not lists:
        return None
    rows = zip(*lists.values(), strict=True)
    return {index: dict(zip(lists, row, strict=True)) for index, row in enumerate(rows)}


def auto_map_of(config_class):
    """The classes of this file that belong to a config's, as the directory of a model names them."""
    module, classes = __name__.rpartition(".")[2], uneven_classes(stock_of(config_class))
    return {
        "AutoConfig": f"{module}.{classes.config.__name__}",
        "AutoModel": f"{module}.{classes.body.__name__}",
        "AutoModelForCausalLM": f"{module}.{classes.causal.__name__}",
    }


def own_by_layer(config):
    """What the family's own code reads layer by layer, beside widths, by the number of the layer."""
    names = OWN_BY_LAYER.get(config.model_type.removeprefix(PREFIX), ())
    layers = enumerate(config.per_layer_config if names else ())
    return {index: {name: getattr(layer, name) for name in names} for index, layer in layers}


def of_one_width(config):
    """The config as it would be for layers of one width: for the parts that belong to no layer."""
    even = copy.copy(config)
    even.per_layer_config = None
    own = own_by_layer(config)
    if own:
        even.per_layer_config = own
    return even


def to_begin_with(config):
    """The config of which a stock class makes what belongs to no layer, with as few layers as it can."""
    even = of_one_width(config)
    if not own_by_layer(config):
        even.num_hidden_layers = 1
    return even


class LayerConfig:
    """The model's config as one of its layers sees it: with its own widths, and all else as it stands there now.

    Args:
        config: the model's.
        index: of the layer.
        others: more numbers that the layer is to see.
    """

    def __init__(self, config, index, **others):
        widths = {name: getattr(config.per_layer_config[index], name) for name in WIDTHS}
        vars(self).update(config=config, widths={**widths, **others})

    def __getattr__(self, name):
        own = vars(self)
        if name.startswith("__") or "config" not in own:  # while it is copied
            raise AttributeError(name)
        return own["widths"][name] if name in own["widths"] else getattr(own["config"], name)


def give_layers_their_configs(config, layers):
    """Have the modules of each layer see the config with the layer's widths.

    How attention is computed stands in the model's config, and may change.
    """
    for index, layer in enumerate(layers):
        uneven = config.is_heterogeneous and config.model_type.startswith(PREFIX)
        of_layer = LayerConfig(config, index) if uneven else config
        for module in layer.modules():
            if hasattr(module, "config"):
                module.config = of_layer


class Absent(nn.Module):
    """In the place of a half that a layer does not have: adds nothing, and has no parameters."""

    is_absent = True


# Not a class of nn.Module's own: where Transformers reads such a class of attention in a file, it takes the file's
# models for ones whose way of computing attention cannot be changed.
class AbsentAttention(Absent):
    """Where a cache asks this layer how many tokens there are, it is given one number for each; else nothing."""

    def __init__(self, layer_idx):
        super().__init__()
        self.layer_idx = layer_idx

    def forward(self, hidden_states, **arguments):
        names = ("cache", "past_key_values", "layer_past")  # now, before Transformers 5.23, and in GPT-NeoX
        cache = next((arguments[name] for name in names if arguments.get(name) is not None), None)
        if cache is not None and self.is_asked(cache.layers):
            tokens = hidden_states[:, None, :, :1]  # (batch, 1, tokens, 1)
            cache.update(tokens, tokens, self.layer_idx)
        return torch.zeros_like(hidden_states), None

    def is_asked(self, layers):
        """Whether this is the first of a cache's layers, or the first of its kind (full, sliding window)."""
        if self.layer_idx == 0 or self.layer_idx >= len(layers):
            return True
        kinds = [type(layer) for layer in layers]
        return kinds.index(kinds[self.layer_idx]) == self.layer_idx


class AbsentMLP(Absent):
    """What comes from it is added as what comes from an MLP is."""

    def forward(self, hidden_states):
        return torch.zeros_like(hidden_states)


def fit_heads(layer, config, index, mixer, *projections):
    """Give a layer heads of the config's size, where its class makes all together as wide as the hidden states.

    Args:
        layer: the layer.
        config: the model's.
        index: the layer's number.
        mixer: the name of the attention in the layer.
        projections: the names of its projections, the output projection last.
    """
    width = config.per_layer_config[index].num_attention_heads * config.head_dim
    attention = type(getattr(layer, mixer))(LayerConfig(config, index, hidden_size=width), index)
    for name in projections:
        linear = getattr(attention, name, None)
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"square_attention names {name}, which is no projection of a {type(attention).__name__}")
        inputs, outputs = config.hidden_size, linear.out_features
        if name == projections[-1]:
            inputs, outputs = linear.in_features, config.hidden_size
        setattr(attention, name, nn.Linear(inputs, outputs, bias=linear.bias is not None))
    setattr(layer, mixer, attention)


def leave_out(layer, index, half, mixer, *norms):
    """Take an attention or an MLP out of a decoder layer, with its norms.

    Args:
        layer: the layer.
        index: its number.
        half: "attention" or "mlp".
        mixer: the name of that module in the layer.
        norms: the names of the norms around it.
    """
    for name in (mixer, *norms):
        if not isinstance(getattr(layer, name, None), nn.Module):
            raise ValueError(f"skipped_modules names {name}, which is no module of a {type(layer).__name__}")
    setattr(layer, mixer, AbsentAttention(index) if half == "attention" else AbsentMLP())
    for norm in norms:
        setattr(layer, norm, nn.Identity())


class UnevenConfigMixin(PreTrainedConfig):
    """A family's config with widths that differ from one layer to another."""

    def __post_init__(self, **settings):
        lists = per_layer_config_of_lists(settings)
        per_layer_config = settings.pop("per_layer_config", None) or lists
        settings.pop("model_file", None)  # mlx-lm's, which only secateur puts beside the weights
        settings["auto_map"] = {**auto_map_of(type(self)), **(settings.get("auto_map") or {})}
        super().__post_init__(**settings)
        if self.model_type.removeprefix(PREFIX) not in OWN_BY_LAYER and getattr(self, "head_dim", None) is None:
            # Some stock configs leave it to hidden_size / heads, which differs from layer to layer.
            self.head_dim = self.hidden_size // self.num_attention_heads
        if getattr(self, "num_key_value_heads", None) is None:
            self.num_key_value_heads = self.num_attention_heads
        if per_layer_config:
            self.per_layer_config = per_layer_config

    def validate_architecture(self):
        """Heads need not divide the hidden size, since the size of a head is given."""
        own = OWN_BY_LAYER.get(self.model_type.removeprefix(PREFIX), ())
        unread = sorted((self.per_layer_attributes or set()) - {*WIDTHS, *own, "skip"})
        if unread:
            raise ValueError(
                f"per_layer_config has {', '.join(unread)}, and these layers differ in {', '.join(WIDTHS)}"
            )
        for index, layer in enumerate(self.per_layer_config):
            unknown = sorted(set(getattr(layer, "skip", None) or ()) - set(HALVES))
            if unknown:
                raise ValueError(f"per_layer_config skips {unknown[0]} of layer {index}; known are {', '.join(HALVES)}")
            if set(getattr(layer, "skip", None) or ()) - set(getattr(self, "skipped_modules", None) or ()):
                raise ValueError(f"layer {index} skips {layer.skip[0]}, and skipped_modules does not name its modules")
            if layer.num_attention_heads % layer.num_key_value_heads:
                raise ValueError(
                    f"layer {index} has {layer.num_attention_heads} query heads for {layer.num_key_value_heads} "
                    "key/value heads"
                )

    def validate_rope(self):
        """Where layers differ in heads, some kinds of positions ask for a number of heads that there is not."""
        super(UnevenConfigMixin, of_one_width(self)).validate_rope()


class UnevenModelMixin(PreTrainedModel):
    """Builds each decoder layer from the config of that layer."""

    def __init__(self, config):
        first_alone = to_begin_with(config)
        super().__init__(first_alone)
        self.config = config
        self.config._attn_implementation = first_alone._attn_implementation
        name, first = next((name, part) for name, part in self.named_children() if isinstance(part, nn.ModuleList))
        for part in self.children():
            if hasattr(part, "config"):  # rotary positions know one width of layers
                part.config = of_one_width(config)
        layer = type(first[0])
        layers = nn.ModuleList(layer(layer_config, index) for index, layer_config in enumerate(config.per_layer_config))
        for index, layer_config in enumerate(config.per_layer_config):
            if getattr(config, "square_attention", None):
                fit_heads(layers[index], config, index, *config.square_attention)
            for half in getattr(layer_config, "skip", None) or ():
                leave_out(layers[index], index, half, *config.skipped_modules[half])
        give_layers_their_configs(config, layers)
        setattr(self, name, layers)
        self.post_init()


class UnevenForCausalLMMixin(PreTrainedModel):
    """The base model of uneven layers with the stock class's head."""

    _uneven_body: type[PreTrainedModel]

    def __init__(self, config):
        first_alone = to_begin_with(config)
        super().__init__(first_alone)
        self.config = config
        setattr(self, self.base_model_prefix, self._uneven_body(config))
        self.post_init()


class UnevenClasses(typing.NamedTuple):
    """The classes of a family for layers of different widths."""

    config: type
    body: type
    causal: type


@functools.cache
def uneven_classes(stock_config):
    """The classes for the layers of a family, whose stock config class this is.

    They are told to put this file beside the weights when a model is saved.
    """
    stock_body, stock_causal = MODEL_MAPPING[stock_config], MODEL_FOR_CAUSAL_LM_MAPPING[stock_config]

    def made(mixin, stock, **attributes):
        attributes = {"__module__": __name__, "__doc__": mixin.__doc__, **attributes}
        return type(NAMED + stock.__name__, (mixin, stock), attributes)

    # Without `strict` the checks of the stock config would stay in force.
    config = strict(made(UnevenConfigMixin, stock_config, model_type=PREFIX + stock_config.model_type))
    body = made(UnevenModelMixin, stock_body, config_class=config)
    causal = made(UnevenForCausalLMMixin, stock_causal, config_class=config, _uneven_body=body)
    config.register_for_auto_class()
    body.register_for_auto_class("AutoModel")
    causal.register_for_auto_class("AutoModelForCausalLM")
    return UnevenClasses(config, body, causal)


def stock_of(uneven_class):
    """The class of Transformers that one for uneven layers is made of."""
    return next(base for base in uneven_class.__mro__ if base.__module__ != __name__)


def __getattr__(name):
    """`UnevenLlamaConfig`, `UnevenLlamaModel`, `UnevenLlamaForCausalLM` and those of all other families."""
    stock = _stock_class(name.removeprefix(NAMED)) if name.startswith(NAMED) else None
    if stock is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if issubclass(stock, PreTrainedConfig):
        return uneven_classes(stock).config
    classes = uneven_classes(stock.config_class)
    return next((known for known in classes if known.__name__ == name), classes.causal)


def _stock_class(name):
    """A config or model class of Transformers, or of what has registered with its Auto classes."""
    found = getattr(transformers, name, None)
    if found is not None:
        return found
    registered = (mapping._extra_content for mapping in (CONFIG_MAPPING, MODEL_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING))
    return next((kind for extra in registered for kind in extra.values() if kind.__name__ == name), None)
