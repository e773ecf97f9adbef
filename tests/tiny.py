"""A small random model and its tokenizer, for tests and for the programs beside them that make models of their own."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

LAYERS = ["sliding_attention", "full_attention"]
# What makes the parts of a family count that a small model would leave out, or have at a size of its own.
OF_FAMILY: dict[str, dict[str, object]] = {
    "gemma2": {"query_pre_attn_scalar": 24, "sliding_window": 12, "layer_types": LAYERS * 2},
    "gemma3_text": {"query_pre_attn_scalar": 24, "sliding_window": 12, "layer_types": LAYERS * 2},
    # Layer 3 uses the keys and values of layer 1 and has a wider MLP; heads of full attention are twice as wide.
    "gemma4_text": {
        "sliding_window": 12,
        "layer_types": LAYERS * 2,
        "global_head_dim": 32,
        "num_kv_shared_layers": 1,
        "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 259,
        "final_logit_softcapping": 2.0,
    },
    "gemma4_unified_text": {
        "sliding_window": 12,
        "layer_types": LAYERS * 2,
        "global_head_dim": 32,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
    },
    "phi3": {"partial_rotary_factor": 0.75},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0]},
    "olmo3": {"sliding_window": 12, "layer_types": LAYERS * 2},
    "granite": {
        "embedding_multiplier": 2.0,
        "logits_scaling": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
    },
    "glm4": {"partial_rotary_factor": 0.5, "attention_bias": True},
    "seed_oss": {"attention_bias": True},
    "cohere": {"logit_scale": 0.25, "use_qk_norm": True},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 12, "layer_types": LAYERS * 2},
    # It makes heads together as wide as the hidden states, each with a key and a value of its own.
    "gpt_neox": {"num_attention_heads": 4, "num_key_value_heads": 4, "rotary_pct": 0.5},
    "starcoder2": {"use_bias": True},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
    },
}

SETTINGS: dict[str, object] = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}


def make_tiny_model(family: str = "llama", seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A random model: 4 layers, 8 query heads over 4 key/value heads of 16, MLP 96, 259 tokens."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**SETTINGS, **OF_FAMILY.get(family, {}), **overrides})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.mul_(4.0)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.fill_(0.8)
    return model.eval()


def make_tiny_tokenizer(merges: Sequence[tuple[str, str]] = ()) -> PreTrainedTokenizerFast:
    """One token per byte, three special ones, and one for each merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    special = ["<bos>", "<eos>", "<pad>"]
    vocabulary.update({token: 256 + index for index, token in enumerate(special)})
    vocabulary.update({"".join(pair): 259 + index for index, pair in enumerate(merges)})
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
