"""Decoder models whose layers have widths of their own: head counts and MLP widths stand per layer in the config.

secateur saves this file beside the weights of an uneven model. Without secateur installed such a model loads with
`AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)`; the file needs Transformers and PyTorch only.
"""

from dataclasses import dataclass

from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)


@dataclass(repr=False, eq=False)
class WidthsPerLayer:
    """What the config of an uneven model says beside its family's settings: one number per decoder layer."""

    num_attention_heads_per_layer: list[int] | None = None
    num_key_value_heads_per_layer: list[int] | None = None
    intermediate_size_per_layer: list[int] | None = None


class UnevenLlamaConfig(WidthsPerLayer, LlamaConfig):
    model_type = "secateur_llama"


class UnevenMistralConfig(WidthsPerLayer, MistralConfig):
    model_type = "secateur_mistral"


class UnevenQwen2Config(WidthsPerLayer, Qwen2Config):
    model_type = "secateur_qwen2"


class UnevenQwen3Config(WidthsPerLayer, Qwen3Config):
    model_type = "secateur_qwen3"


def resized(linear: nn.Linear, in_features: int, out_features: int) -> nn.Linear:
    """A new linear layer like `linear` (bias, dtype, device) with other widths; its weights are not initialised."""
    return nn.Linear(
        in_features,
        out_features,
        bias=linear.bias is not None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
    )


class UnevenLayersMixin(PreTrainedModel):
    """Gives each decoder layer the widths that the config lists for it, after the stock class has built it."""

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            query_width = config.num_attention_heads_per_layer[index] * attention.head_dim
            key_value_width = config.num_key_value_heads_per_layer[index] * attention.head_dim
            attention.q_proj = resized(attention.q_proj, config.hidden_size, query_width)
            attention.k_proj = resized(attention.k_proj, config.hidden_size, key_value_width)
            attention.v_proj = resized(attention.v_proj, config.hidden_size, key_value_width)
            attention.o_proj = resized(attention.o_proj, query_width, config.hidden_size)
            intermediate_size = config.intermediate_size_per_layer[index]
            mlp.gate_proj = resized(mlp.gate_proj, config.hidden_size, intermediate_size)
            mlp.up_proj = resized(mlp.up_proj, config.hidden_size, intermediate_size)
            mlp.down_proj = resized(mlp.down_proj, intermediate_size, config.hidden_size)
            mlp.intermediate_size = intermediate_size
        self.post_init()


class UnevenLlamaForCausalLM(UnevenLayersMixin, LlamaForCausalLM):
    config_class = UnevenLlamaConfig


class UnevenMistralForCausalLM(UnevenLayersMixin, MistralForCausalLM):
    config_class = UnevenMistralConfig


class UnevenQwen2ForCausalLM(UnevenLayersMixin, Qwen2ForCausalLM):
    config_class = UnevenQwen2Config


class UnevenQwen3ForCausalLM(UnevenLayersMixin, Qwen3ForCausalLM):
    config_class = UnevenQwen3Config
