"""The families that secateur knows, each a table of names."""

from dataclasses import replace

from secateur.models import gemma4
from secateur.models.adapters import Adapter, enter
from secateur.models.halves import HalfNames

ATTENTION = HalfNames(
    part="attention",
    mixer="self_attn",
    inputs={"q_proj": ("query",), "k_proj": ("key",), "v_proj": ("value",)},
    output="o_proj",
    norm="input_layernorm",
)
GATED_MLP = HalfNames(
    part="mlp",
    mixer="mlp",
    inputs={"gate_proj": ("channel",), "up_proj": ("channel",)},
    output="down_proj",
    norm="post_attention_layernorm",
)
FUSED_MLP = replace(GATED_MLP, inputs={"gate_up_proj": ("channel", "channel")})
LLAMA = (ATTENTION, GATED_MLP)

GEMMA = (
    replace(ATTENTION, norm_after="post_attention_layernorm"),
    replace(GATED_MLP, norm="pre_feedforward_layernorm", norm_after="post_feedforward_layernorm"),
)
OLMO = (
    replace(
        ATTENTION,
        norm=None,
        norm_after="post_attention_layernorm",
        whole_norms={"q_norm": "query", "k_norm": "key"},
    ),
    replace(GATED_MLP, norm=None, norm_after="post_feedforward_layernorm"),
)
PHI = (replace(ATTENTION, inputs={"qkv_proj": ("query", "key", "value")}), FUSED_MLP)
GLM = (
    replace(ATTENTION, norm_after="post_self_attn_layernorm"),
    replace(FUSED_MLP, norm_after="post_mlp_layernorm"),
)
GRANITE = tuple(replace(half, multiplier="residual_multiplier") for half in LLAMA)
STARCODER = (
    ATTENTION,
    replace(GATED_MLP, inputs={"c_fc": ("channel",)}, output="c_proj"),
)
COHERE = (
    replace(ATTENTION, per_head={"q_norm.weight": "query", "k_norm.weight": "key"}),
    replace(GATED_MLP, norm="input_layernorm", parallel=True),
)
NEOX = (
    replace(
        ATTENTION,
        mixer="attention",
        inputs={"query_key_value": ("query_key_value",)},
        output="dense",
        head_dim="head_size",
        fills_hidden_size=True,
    ),
    replace(
        GATED_MLP, inputs={"dense_h_to_4h": ("channel",)}, output="dense_4h_to_h", parallel="use_parallel_residual"
    ),
)
GATED_DELTA_NET = HalfNames(
    part="attention",
    mixer="linear_attn",
    inputs={"in_proj_qkv": (), "in_proj_z": (), "in_proj_b": (), "in_proj_a": ()},
    output="out_proj",
    norm="input_layernorm",
    arguments=("attention_mask",),
    divisible=False,
    softmax=False,
    stays_as="linear attention",
)
QWEN_HYBRID = (
    replace(ATTENTION, inputs={**ATTENTION.inputs, "q_proj": ("gated_query",)}),
    GATED_DELTA_NET,
    GATED_MLP,
)

for _adapter in (
    Adapter("llama", LLAMA),
    Adapter("mistral", LLAMA),
    Adapter("qwen2", LLAMA),
    Adapter("qwen3", LLAMA),
    Adapter("gemma2", GEMMA),
    Adapter("gemma3_text", GEMMA, rope_by_layer_type=True),
    *gemma4.adapters(*GEMMA),
    Adapter("phi3", PHI, partial_rotary=True),
    Adapter("smollm3", LLAMA),
    Adapter("olmo2", OLMO),
    Adapter("olmo3", OLMO, rope_by_layer_type=True),
    Adapter("granite", GRANITE),
    Adapter("glm4", GLM, partial_rotary=True),
    Adapter("ministral3", LLAMA),
    Adapter("seed_oss", LLAMA),
    Adapter("starcoder2", STARCODER),
    Adapter("qwen3_5_text", QWEN_HYBRID, partial_rotary=True),
    Adapter("cohere", COHERE),
    Adapter("cohere2", COHERE),
    Adapter("gpt_neox", NEOX, body_name="gpt_neox", final_norm_name="final_layer_norm", partial_rotary=True),
):
    enter(_adapter)
