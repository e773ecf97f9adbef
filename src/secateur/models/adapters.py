"""Where each family of decoder models keeps its parts. No other module of secateur names a module path."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.errors import ModelError
from secateur.models import modeling_secateur as uneven

Part = Literal["attention", "mlp"]
PARTS: tuple[Part, Part] = ("attention", "mlp")


class Adapter:
    """A decoder of pre-norm blocks: grouped-query attention, then a gated MLP.

    A family with blocks of this shape is added by one subclass that names its classes; a family that keeps its
    parts elsewhere overrides the methods as well.
    """

    model_type: ClassVar[str]
    uneven_config: ClassVar[type[PreTrainedConfig]]
    uneven_model: ClassVar[type[uneven.UnevenForCausalLMMixin]]
    attention_projections: ClassVar[tuple[str, str, str, str]] = ("q_proj", "k_proj", "v_proj", "o_proj")
    mlp_projections: ClassVar[tuple[str, str, str]] = ("gate_proj", "up_proj", "down_proj")

    @property
    def uneven_body(self) -> type[PreTrainedModel]:
        return self.uneven_model.decoder

    @property
    def stock_config(self) -> type[PreTrainedConfig]:
        return _stock_base(self.uneven_config)

    @property
    def stock_model(self) -> type[PreTrainedModel]:
        return _stock_base(self.uneven_model)

    @property
    def stock_body(self) -> type[PreTrainedModel]:
        return _stock_base(self.uneven_body)

    def body(self, model: PreTrainedModel) -> nn.Module:
        """The decoder without its head."""
        return cast(nn.Module, model.model)

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        return cast(nn.ModuleList, self.body(model).layers)

    def final_norm(self, model: PreTrainedModel) -> nn.Module:
        """The norm between the last layer and the head."""
        return cast(nn.Module, self.body(model).norm)

    def rotary_positions(self, model: PreTrainedModel) -> Any:
        return self.body(model).rotary_emb

    def attention(self, layer: nn.Module) -> nn.Module:
        return cast(nn.Module, layer.self_attn)

    def mlp(self, layer: nn.Module) -> nn.Module:
        return cast(nn.Module, layer.mlp)

    def attention_linears(self, layer: nn.Module) -> tuple[nn.Linear, ...]:
        """The projections of queries, keys, values and output."""
        attention = self.attention(layer)
        return tuple(cast(nn.Linear, getattr(attention, name)) for name in self.attention_projections)

    def mlp_linears(self, layer: nn.Module) -> tuple[nn.Linear, ...]:
        """The gate, up and down projections."""
        mlp = self.mlp(layer)
        return tuple(cast(nn.Linear, getattr(mlp, name)) for name in self.mlp_projections)

    def projections(self, layer: nn.Module) -> dict[str, nn.Linear]:
        """All projections of a layer by name, in the order in which they are used."""
        names = (*self.attention_projections, *self.mlp_projections)
        return dict(zip(names, (*self.attention_linears(layer), *self.mlp_linears(layer)), strict=True))

    def attention_half(self, layer: nn.Module, hidden: torch.Tensor, arguments: Mapping[str, Any]) -> torch.Tensor:
        """The residual stream after the layer's attention: (batch, seq, hidden_size) in and out."""
        norm = cast(nn.Module, layer.input_layernorm)
        attended, *_ = self.attention(layer)(hidden_states=norm(hidden), **arguments)
        return hidden + attended

    def mlp_half(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """The residual stream after the layer's MLP, given the one after its attention."""
        norm = cast(nn.Module, layer.post_attention_layernorm)
        return hidden + self.mlp(layer)(norm(hidden))

    def head_dim(self, layer: nn.Module) -> int:
        return cast(int, self.attention(layer).head_dim)


def _stock_base(uneven_class: Any) -> Any:
    """The class of Transformers that one for uneven layers is made of."""
    return next(base for base in uneven_class.__mro__ if base.__module__ != uneven.__name__)


class Llama(Adapter):
    model_type = "llama"
    uneven_config = uneven.UnevenLlamaConfig
    uneven_model = uneven.UnevenLlamaForCausalLM


class Mistral(Adapter):
    model_type = "mistral"
    uneven_config = uneven.UnevenMistralConfig
    uneven_model = uneven.UnevenMistralForCausalLM


class Qwen2(Adapter):
    model_type = "qwen2"
    uneven_config = uneven.UnevenQwen2Config
    uneven_model = uneven.UnevenQwen2ForCausalLM


class Qwen3(Adapter):
    model_type = "qwen3"
    uneven_config = uneven.UnevenQwen3Config
    uneven_model = uneven.UnevenQwen3ForCausalLM


ADAPTERS: tuple[Adapter, ...] = (Llama(), Mistral(), Qwen2(), Qwen3())


def supported_model_types() -> list[str]:
    return [adapter.model_type for adapter in ADAPTERS]


def adapter_for(model_type: str) -> Adapter:
    """The adapter of a family, by the `model_type` of a stock or an uneven config.

    Raises:
        ModelError: no adapter knows this family.
    """
    for adapter in ADAPTERS:
        if model_type in (adapter.model_type, adapter.uneven_config.model_type):
            return adapter
    raise ModelError(
        f"the architecture '{model_type}' is not supported; supported are {', '.join(supported_model_types())}"
    )


def is_uneven_type(model_type: str) -> bool:
    """Whether configs of this type have widths that differ from layer to layer. Errors as `adapter_for`."""
    return model_type == adapter_for(model_type).uneven_config.model_type


def adapter_of(model: PreTrainedModel) -> Adapter:
    """The adapter of a loaded model. Raises `ModelError` for an unsupported family."""
    return adapter_for(model.config.model_type)
