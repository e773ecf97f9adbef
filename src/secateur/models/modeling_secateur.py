"""Decoder models whose layers have widths of their own: Transformers' `per_layer_config`, read layer by layer.

secateur saves this file beside the weights of an uneven model. Without secateur installed such a model loads with
`AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)`; the file needs Transformers and PyTorch only.
"""

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    MistralModel,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

WIDTHS = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


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
    module, family = __name__.rpartition(".")[2], config_class.__name__.removesuffix("Config")
    return {
        "AutoConfig": f"{module}.{family}Config",
        "AutoModel": f"{module}.{family}Model",
        "AutoModelForCausalLM": f"{module}.{family}ForCausalLM",
    }


def of_one_width(config):
    """The config as it would be for layers of one width: for the parts that belong to no layer."""
    even = copy.copy(config)
    even.per_layer_config = None
    return even


class UnevenConfigMixin(PreTrainedConfig):
    """A family's config with widths that differ from one layer to another."""

    def __post_init__(self, **settings):
        lists = per_layer_config_of_lists(settings)
        per_layer_config = settings.pop("per_layer_config", None) or lists
        settings.pop("model_file", None)  # mlx-lm's, which only secateur puts beside the weights
        settings["auto_map"] = {**auto_map_of(type(self)), **(settings.get("auto_map") or {})}
        super().__post_init__(**settings)
        if getattr(self, "head_dim", None) is None:
            # Some stock configs leave it to hidden_size / heads, which differs from layer to layer.
            self.head_dim = self.hidden_size // self.num_attention_heads
        if per_layer_config:
            self.per_layer_config = per_layer_config

    def validate_architecture(self):
        """Heads need not divide the hidden size, since the size of a head is given."""
        unread = sorted((self.per_layer_attributes or set()) - set(WIDTHS))
        if unread:
            raise ValueError(
                f"per_layer_config has {', '.join(unread)}, and these layers differ in {', '.join(WIDTHS)}"
            )
        for index, layer in enumerate(self.per_layer_config):
            if getattr(layer, "skip", None):
                raise ValueError(f"per_layer_config skips {layer.skip} of layer {index}, which is not read here")
            if layer.num_attention_heads % layer.num_key_value_heads:
                raise ValueError(
                    f"layer {index} has {layer.num_attention_heads} query heads for {layer.num_key_value_heads} "
                    "key/value heads"
                )

    def validate_rope(self):
        """Where layers differ in heads, some kinds of positions ask for a number of heads that there is not."""
        super(UnevenConfigMixin, of_one_width(self)).validate_rope()


@strict  # or the checks of the stock config stay in force
class UnevenLlamaConfig(UnevenConfigMixin, LlamaConfig):
    model_type = "secateur_llama"


@strict  # or the checks of the stock config stay in force
class UnevenMistralConfig(UnevenConfigMixin, MistralConfig):
    model_type = "secateur_mistral"


@strict  # or the checks of the stock config stay in force
class UnevenQwen2Config(UnevenConfigMixin, Qwen2Config):
    model_type = "secateur_qwen2"


@strict  # or the checks of the stock config stay in force
class UnevenQwen3Config(UnevenConfigMixin, Qwen3Config):
    model_type = "secateur_qwen3"


class UnevenModelMixin(PreTrainedModel):
    """Builds each decoder layer from the config of that layer."""

    decoder_layer: type[nn.Module]
    rotary_emb: Any

    def __init__(self, config):
        without_layers = of_one_width(config)
        without_layers.num_hidden_layers = 0
        super().__init__(without_layers)
        self.config = config
        self.config._attn_implementation = without_layers._attn_implementation
        self.layers = nn.ModuleList(
            self.decoder_layer(layer_config, index) for index, layer_config in enumerate(config.per_layer_config)
        )
        # How attention is computed stands in the model's config, and may change.
        for module in self.layers.modules():
            if hasattr(module, "config"):
                module.config = config
        self.rotary_emb.config = of_one_width(config)
        self.post_init()


class UnevenForCausalLMMixin(PreTrainedModel):
    """The base model of uneven layers with the stock class's head."""

    config_class: type[PreTrainedConfig]
    decoder: type[PreTrainedModel]

    def __init_subclass__(cls, **options):
        """Have `save_pretrained` put this file beside the weights."""
        super().__init_subclass__(**options)
        cls.config_class.register_for_auto_class()
        cls.decoder.register_for_auto_class("AutoModel")
        cls.register_for_auto_class("AutoModelForCausalLM")

    def __init__(self, config):
        PreTrainedModel.__init__(self, config)
        self.model = self.decoder(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


class UnevenLlamaModel(UnevenModelMixin, LlamaModel):
    config_class = UnevenLlamaConfig
    decoder_layer = LlamaDecoderLayer


class UnevenMistralModel(UnevenModelMixin, MistralModel):
    config_class = UnevenMistralConfig
    decoder_layer = MistralDecoderLayer


class UnevenQwen2Model(UnevenModelMixin, Qwen2Model):
    config_class = UnevenQwen2Config
    decoder_layer = Qwen2DecoderLayer


class UnevenQwen3Model(UnevenModelMixin, Qwen3Model):
    config_class = UnevenQwen3Config
    decoder_layer = Qwen3DecoderLayer


class UnevenLlamaForCausalLM(UnevenForCausalLMMixin, LlamaForCausalLM):
    config_class = UnevenLlamaConfig
    decoder = UnevenLlamaModel


class UnevenMistralForCausalLM(UnevenForCausalLMMixin, MistralForCausalLM):
    config_class = UnevenMistralConfig
    decoder = UnevenMistralModel


class UnevenQwen2ForCausalLM(UnevenForCausalLMMixin, Qwen2ForCausalLM):
    config_class = UnevenQwen2Config
    decoder = UnevenQwen2Model


class UnevenQwen3ForCausalLM(UnevenForCausalLMMixin, Qwen3ForCausalLM):
    config_class = UnevenQwen3Config
    decoder = UnevenQwen3Model
