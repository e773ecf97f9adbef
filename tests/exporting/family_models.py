"""Tiny models of the families whose llama.cpp graphs are not Llama's, made so that what is special in each counts."""

from typing import Any

from transformers import PreTrainedModel

from tiny import make_tiny_model
from uneven import cut_unevenly

PROMPT = [(7 * position) % 290 + 2 for position in range(60)]
# Some graphs want heads that together are as wide as the hidden states.
SQUARE: dict[str, Any] = {"head_dim": 8}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
WITHOUT_SCALING = {"rope_type": "default", "rope_theta": 500.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.5, 2.0],
    "long_factor": [2.0, 3.0, 5.0],
    # llama.cpp rounds the context up to a multiple of 256, and goes by that.
    "original_max_position_embeddings": 256,
}
# By family: settings beside those of `tiny`, the architecture of even layers, that of uneven ones.
FAMILIES: dict[str, tuple[dict[str, Any], str, str]] = {
    "gemma3_text": (
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0},
                "sliding_attention": WITHOUT_SCALING,
            }
        },
        "gemma3",
        "gemma3",
    ),
    "phi3": (SQUARE, "phi3", "deci"),
    "smollm3": ({"no_rope_layers": [1, 1, 1, 0]}, "smollm3", "smollm3"),
    "gemma2": ({"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}, "gemma2", "gemma2"),
    "granite": ({"attention_bias": True, "mlp_bias": True}, "granite", "deci"),
    "olmo2": ({**SQUARE, "tie_word_embeddings": False}, "olmo2", "olmo2"),
    "qwen3_5_text": ({}, "qwen35", "qwen35"),
    "cohere": ({**SQUARE, "use_qk_norm": False}, "command-r", "command-r"),
    "cohere2": (SQUARE, "cohere2", "cohere2"),
    "gpt_neox": ({"tie_word_embeddings": False, "hidden_act": "gelu_new"}, "gptneox", "gptneox"),
    "starcoder2": (SQUARE, "starcoder2", "starcoder2"),
    "seed_oss": ({}, "seed_oss", "deci"),
    "glm4": ({}, "glm4", "glm4"),
    "olmo3": (
        {
            **SQUARE,
            "rope_parameters": {
                "full_attention": {**YARN, "rope_theta": 500.0},
                "sliding_attention": WITHOUT_SCALING,
            },
        },
        "olmo2",
        "olmo2",
    ),
    "ministral3": (
        {
            "rope_parameters": {
                **YARN,
                "rope_theta": 1e4,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            }
        },
        "mistral3",
        "mistral3",
    ),
}
# Those of the even models whose heads and channels `prune --even` has cut.
EVEN_CUT = [(2, 64)] * 4


def make_family(family: str, widths: str = "uncut", **settings: Any) -> PreTrainedModel:
    """A tiny model of 300 tokens.

    Args:
        widths: "uncut", "even" or "uneven".
        settings: over those of the family.
    """
    base = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    model = make_tiny_model(family, **{**base, **FAMILIES.get(family, ({},))[0], **settings})
    if widths == "uneven":
        return cut_unevenly(model)
    return cut_unevenly(model, EVEN_CUT) if widths == "even" else model
