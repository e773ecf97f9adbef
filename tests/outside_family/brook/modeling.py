"""A Brook model: Llama's layers by other names, with LayerNorms before and a norm between attention and the stream."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb, eager_attention_forward

from brook.configuration import BrookConfig


class BrookAttention(nn.Module):
    def __init__(self, config: BrookConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.head_dim = config, layer_idx, config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling, self.is_causal = self.head_dim**-0.5, True
        queries, keys = (heads * self.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        self.wq = nn.Linear(config.hidden_size, queries, bias=False)
        self.wk = nn.Linear(config.hidden_size, keys, bias=False)
        self.wv = nn.Linear(config.hidden_size, keys, bias=False)
        self.wo = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(
        self, hidden_states: Tensor, positions: Any, attention_mask: Tensor | None, cache: Any = None, **options: Any
    ) -> Tensor:
        batch, length, _ = hidden_states.shape
        query, key, value = (
            project(hidden_states).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for project in (self.wq, self.wk, self.wv)
        )
        query, key = apply_rotary_pos_emb(query, key, *positions)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        mixed, _ = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0, **options)
        return self.wo(mixed.reshape(batch, length, -1))


class BrookFeedForward(nn.Module):
    def __init__(self, config: BrookConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.w2(nn.functional.silu(self.w1(hidden_states)) * self.w3(hidden_states))


class BrookBlock(GradientCheckpointingLayer):
    def __init__(self, config: BrookConfig, layer_idx: int) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.attn = BrookAttention(config, layer_idx)
        self.attn_out_norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.ffn_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.ffn = BrookFeedForward(config)

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        hidden_states = hidden_states + self.attn_out_norm(self.attn(self.attn_norm(hidden_states), **arguments))
        return hidden_states + self.ffn(self.ffn_norm(hidden_states))


class BrookPreTrainedModel(PreTrainedModel):
    config: BrookConfig
    config_class = BrookConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["BrookBlock"]
    _supports_sdpa = True
    _supports_attention_backend = True


class BrookModel(BrookPreTrainedModel):
    def __init__(self, config: BrookConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(BrookBlock(config, index) for index in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.rotary = LlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPast:
        hidden = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        if cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if cache is None else cache.get_seq_length()
            position_ids = torch.arange(seen, seen + hidden.shape[1], device=hidden.device)[None]
        mask = create_causal_mask(self.config, hidden, attention_mask, cache, position_ids)
        positions = self.rotary(hidden, position_ids)
        for block in self.blocks:
            hidden = block(hidden, positions=positions, attention_mask=mask, cache=cache)
        return BaseModelOutputWithPast(self.final_norm(hidden), cache)


class BrookForCausalLM(BrookPreTrainedModel, GenerationMixin):
    _tied_weights_keys: ClassVar = {"unembed.weight": "decoder.embed.weight"}

    def __init__(self, config: BrookConfig) -> None:
        super().__init__(config)
        self.decoder = BrookModel(config)
        self.unembed = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.unembed

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.unembed = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **arguments: Any,
    ) -> CausalLMOutputWithPast:
        output = self.decoder(input_ids, attention_mask, **arguments)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.unembed(output[0][:, kept])
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size)
        return CausalLMOutputWithPast(loss, logits, output[1] if len(output) > 1 else None)
