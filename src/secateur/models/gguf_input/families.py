"""What files of a family have beside Llama's: keys that its config has a setting for, and tensors of its own."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.models.json_file import shown
from secateur.models.widths import LayerWidths

Settings = dict[str, Any]
# Names in the file, and in a layer: norms with what their weights are as long as.
LLAMA_NORMS = {"attn_norm": ("input_layernorm", "hidden"), "ffn_norm": ("post_attention_layernorm", "hidden")}
HEAD_NORMS = {"attn_q_norm": ("self_attn.q_norm", "head"), "attn_k_norm": ("self_attn.k_norm", "head")}
GEMMA_NORMS = {
    "attn_norm": ("input_layernorm", "hidden"),
    "post_attention_norm": ("post_attention_layernorm", "hidden"),
    "ffn_norm": ("pre_feedforward_layernorm", "hidden"),
    "post_ffw_norm": ("post_feedforward_layernorm", "hidden"),
}
OLMO_NORMS = {
    "attn_q_norm": ("self_attn.q_norm", "queries"),
    "attn_k_norm": ("self_attn.k_norm", "keys"),
    "post_attention_norm": ("post_attention_layernorm", "hidden"),
    "post_ffw_norm": ("post_feedforward_layernorm", "hidden"),
}
GLM_NORMS = {
    **LLAMA_NORMS,
    "post_attention_norm": ("post_self_attn_layernorm", "hidden"),
    "post_ffw_norm": ("post_mlp_layernorm", "hidden"),
}
COHERE_NORMS = {"attn_norm": LLAMA_NORMS["attn_norm"]}
# Names in the file, and in a layer: projections with the kinds of their outputs and of their inputs.
Projections = Mapping[str, tuple[str, tuple[str, ...], str]]
ATTENTION: Projections = {
    "attn_q": ("self_attn.q_proj", ("queries",), "hidden"),
    "attn_k": ("self_attn.k_proj", ("keys",), "hidden"),
    "attn_v": ("self_attn.v_proj", ("keys",), "hidden"),
    "attn_output": ("self_attn.o_proj", ("hidden",), "queries"),
}
MLP: Projections = {
    "ffn_gate": ("mlp.gate_proj", ("inner",), "hidden"),
    "ffn_up": ("mlp.up_proj", ("inner",), "hidden"),
    "ffn_down": ("mlp.down_proj", ("hidden",), "inner"),
}
FUSED_MLP: Projections = {
    "ffn_up": ("mlp.gate_up_proj", ("inner", "inner"), "hidden"),
    "ffn_down": ("mlp.down_proj", ("hidden",), "inner"),
}
FUSED_ATTENTION: Projections = {
    "attn_qkv": ("self_attn.qkv_proj", ("queries", "keys", "keys"), "hidden"),
    "attn_output": ("self_attn.o_proj", ("hidden",), "queries"),
}
PLAIN_MLP: Projections = {
    "ffn_up": ("mlp.c_fc", ("inner",), "hidden"),
    "ffn_down": ("mlp.c_proj", ("hidden",), "inner"),
}
NEOX: Projections = {
    "attn_qkv": ("attention.query_key_value", ("queries", "keys", "keys"), "hidden"),
    "attn_output": ("attention.dense", ("hidden",), "queries"),
    "ffn_up": ("mlp.dense_h_to_4h", ("inner",), "hidden"),
    "ffn_down": ("mlp.dense_4h_to_h", ("hidden",), "inner"),
}
PLAIN = frozenset({"default", "linear"})
WITH_FACTORS = PLAIN | {"yarn", "llama3"}
QKV = frozenset({"attn_q", "attn_k", "attn_v"})


def _nothing(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    """Changes no setting."""


@dataclass(frozen=True)
class FileFamily:
    """A family as its files have it.

    Attributes:
        norms, projections: of a layer.
        norm_offset: what the file adds to the weights of norms.
        neighbours: whether rows of queries and keys that are rotated together are neighbours in the file.
        part_of_head: whether a part of each head may be rotated.
        keys: that are read beside those of all families.
        biased: projections that always have a bias.
        may_have_bias: settings of the config, each with the projections whose biases it stands for.
        layer_norm: whether norms are LayerNorms.
        norm_bias: whether they have biases.
        body, final_norm: names of the decoder in the model, and of the norm after its layers.
        embeddings: of the decoder.
        by_head: projections whose rows are, head by head, a query, a key and a value, and in the file all queries, all
            keys, all values.
        rope: kinds of rotary positions that its files can say.
        change: completes the settings of a config from the keys.
    """

    norms: Mapping[str, tuple[str, str]] = field(default_factory=lambda: LLAMA_NORMS)
    projections: Projections = field(default_factory=lambda: {**ATTENTION, **MLP})
    norm_offset: float = 0.0
    neighbours: bool = False
    part_of_head: bool = False
    keys: frozenset[str] = frozenset()
    biased: frozenset[str] = frozenset()
    may_have_bias: Mapping[str, frozenset[str]] = field(default_factory=dict)
    layer_norm: bool = False
    norm_bias: bool = False
    body: str = "model"
    final_norm: str = "norm"
    embeddings: str = "embed_tokens"
    by_head: frozenset[str] = frozenset()
    rope: frozenset[str] = PLAIN | {"yarn"}
    change: Callable[[Mapping[str, Any], Settings, LayerWidths], None] = _nothing


WINDOW = "attention.sliding_window"
STEP = "attention.sliding_window_pattern"
WINDOWS = frozenset({WINDOW, STEP})
SSM = ("ssm.conv_kernel", "ssm.state_size", "ssm.group_count", "ssm.time_step_rank", "ssm.inner_size")
INTERVAL, SECTIONS = "full_attention_interval", "rope.dimension_sections"
LOG_MULTIPLIER, ORIGINAL = "rope.scaling.yarn_log_multiplier", "rope.scaling.original_context_length"
LOGIT_SCALE, PARALLEL, LAYER_EPSILON = "logit_scale", "use_parallel_residual", "attention.layer_norm_epsilon"
SWITCHES = {PARALLEL}  # keys whose values are true or false
COUNTS = WINDOWS | {*SSM, INTERVAL, ORIGINAL}  # keys whose values are whole numbers


def _windows(keys: Mapping[str, Any], settings: Settings, usual_step: int) -> None:
    step, layers = keys.get(STEP, usual_step), settings["num_hidden_layers"]
    if WINDOW not in keys:
        raise ValueError(f"{WINDOW} is missing")
    settings["sliding_window"] = keys[WINDOW]
    sliding = [(layer + 1) % step > 0 for layer in range(layers)]
    settings["layer_types"] = ["sliding_attention" if each else "full_attention" for each in sliding]


def _rope_by_kind(settings: Settings, base: float | None = None) -> None:
    """The same rotary positions in both kinds of layers, in those with a window without scaling."""
    everywhere = settings["rope_parameters"]
    windows = {"rope_type": "default", "rope_theta": everywhere["rope_theta"] if base is None else base}
    settings["rope_parameters"] = {"full_attention": everywhere, "sliding_attention": windows}


def _gemma(settings: Settings, width: LayerWidths, large: int) -> None:
    """llama.cpp goes by the number of layers where it divides scores otherwise than by the root of the head's size."""
    is_large = settings["num_hidden_layers"] == large
    by_heads = settings["hidden_size"] // width.num_attention_heads
    settings["query_pre_attn_scalar"] = by_heads if is_large else settings["head_dim"]


def _gemma2(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    _gemma(settings, width, large=46)
    _windows({WINDOW: 4096, **keys}, settings, usual_step=2)
    settings["attn_logit_softcapping"] = keys.get("attn_logit_softcapping", 50.0)
    settings["final_logit_softcapping"] = keys.get("final_logit_softcapping", 30.0)


def _gemma3(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    _gemma(settings, width, large=62)
    _windows(keys, settings, usual_step=6)
    _rope_by_kind(settings, float(keys.get("rope.freq_base_swa", 10000.0)))


def _olmo3(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    _windows(keys, settings, usual_step=4)
    _rope_by_kind(settings)


def _granite(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    for key, setting in GRANITE.items():
        usual = 1 / math.sqrt(settings["head_dim"]) if key == "attention.scale" else 1.0
        settings[setting] = keys.get(key) or usual


def _phi3(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    """llama.cpp leaves out the window that the file and the model have."""
    settings["sliding_window"] = keys.get(WINDOW)
    original = settings["rope_parameters"].get("original_max_position_embeddings")
    settings["original_max_position_embeddings"] = original or settings["max_position_embeddings"]


def _starcoder2(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    settings["norm_epsilon"] = settings.pop("rms_norm_eps")
    settings.update(use_bias=True, sliding_window=None)


def _layer_norm_eps(settings: Settings) -> None:
    settings["layer_norm_eps"] = settings.pop("rms_norm_eps")


def _cohere(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    _layer_norm_eps(settings)
    settings.update(logit_scale=keys.get(LOGIT_SCALE) or 1.0, attention_bias=False)


def _cohere2(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    _cohere(keys, settings, width)
    _windows(keys, settings, usual_step=4)


def _gpt_neox(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    """llama.cpp computes the approximation by tanh, whatever the model was trained with."""
    _layer_norm_eps(settings)
    settings.update(attention_bias=True, hidden_act="gelu_pytorch_tanh", use_parallel_residual=keys.get(PARALLEL, True))


def _ministral3(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    rope = settings["rope_parameters"]
    multiplier = keys.get(LOG_MULTIPLIER, 0.0)
    if rope["rope_type"] == "yarn" and multiplier:
        rope.update(mscale=1.0, mscale_all_dim=multiplier)
    rope["original_max_position_embeddings"] = keys.get(ORIGINAL, settings["max_position_embeddings"])
    rope["llama_4_scaling_beta"] = float(keys.get("attention.temperature_scale", 0.0))


def _qwen35(keys: Mapping[str, Any], settings: Settings, width: LayerWidths) -> None:
    absent = [key for key in (*SSM, SECTIONS) if key not in keys]
    if absent:
        raise ValueError(f"{absent[0]} is missing")
    kernel, size, groups, heads, inner = (keys[key] for key in SSM)
    if inner != size * heads or heads % groups:
        raise ValueError(f"ssm.inner_size {inner} is not made of {heads} heads of {size} in {groups} groups")
    frequencies = round(settings["head_dim"] * settings["rope_parameters"]["partial_rotary_factor"]) // 2
    # Of text all three positions of an image are the same; each has every third frequency.
    sections = [*(math.ceil((frequencies - part) / 3) for part in range(3)), 0]
    if keys[SECTIONS] != sections:
        raise ValueError(f"{SECTIONS} is {shown(keys[SECTIONS])}, and secateur reads files where it is {sections}")
    layers, step = settings["num_hidden_layers"], keys.get(INTERVAL, 4)
    settings.update(
        layer_types=["linear_attention" if (layer + 1) % step else "full_attention" for layer in range(layers)],
        linear_conv_kernel_dim=kernel,
        linear_key_head_dim=size,
        linear_value_head_dim=size,
        linear_num_key_heads=groups,
        linear_num_value_heads=heads,
    )


GRANITE = {
    "logit_scale": "logits_scaling",
    "residual_scale": "residual_multiplier",
    "embedding_scale": "embedding_multiplier",
    "attention.scale": "attention_multiplier",
}
LLAMA_BIAS = {
    "attention_bias": frozenset({*QKV, "attn_output"}),
    "mlp_bias": frozenset({"ffn_gate", "ffn_up", "ffn_down"}),
}
OF_ATTENTION = {"attention_bias": LLAMA_BIAS["attention_bias"]}
# By the `model_type`.
FAMILIES: dict[str, FileFamily] = {
    "llama": FileFamily(neighbours=True, may_have_bias=LLAMA_BIAS, rope=WITH_FACTORS),
    "qwen2": FileFamily(biased=QKV, rope=WITH_FACTORS),
    "qwen3": FileFamily({**LLAMA_NORMS, **HEAD_NORMS}, may_have_bias=OF_ATTENTION, rope=WITH_FACTORS),
    "gemma2": FileFamily(
        GEMMA_NORMS,
        norm_offset=1.0,
        keys=WINDOWS | {"attn_logit_softcapping", "final_logit_softcapping"},
        rope=PLAIN,
        change=_gemma2,
    ),
    "gemma3_text": FileFamily(
        {**GEMMA_NORMS, **HEAD_NORMS},
        norm_offset=1.0,
        keys=WINDOWS | {"rope.freq_base_swa"},
        rope=PLAIN,
        change=_gemma3,
    ),
    "phi3": FileFamily(
        projections={**FUSED_ATTENTION, **FUSED_MLP},
        part_of_head=True,
        keys=frozenset({WINDOW}),
        rope=frozenset({"default", "longrope"}),
        change=_phi3,
    ),
    "smollm3": FileFamily(neighbours=True),
    "olmo2": FileFamily(OLMO_NORMS),
    "olmo3": FileFamily(OLMO_NORMS, keys=WINDOWS, change=_olmo3),
    "granite": FileFamily(
        neighbours=True, may_have_bias=LLAMA_BIAS, keys=frozenset(GRANITE), rope=WITH_FACTORS, change=_granite
    ),
    "glm4": FileFamily(
        GLM_NORMS,
        projections={**ATTENTION, **FUSED_MLP},
        part_of_head=True,
        rope=PLAIN,
        may_have_bias={"attention_bias": QKV},
    ),
    "ministral3": FileFamily(
        neighbours=True,
        keys=frozenset({"attention.temperature_scale", LOG_MULTIPLIER, ORIGINAL}),
        change=_ministral3,
    ),
    "seed_oss": FileFamily(
        {"attn_norm": LLAMA_NORMS["attn_norm"], "post_attention_norm": LLAMA_NORMS["ffn_norm"]},
        may_have_bias={"attention_bias": QKV},
    ),
    "qwen3_5_text": FileFamily(
        {"attn_norm": LLAMA_NORMS["attn_norm"], "post_attention_norm": LLAMA_NORMS["ffn_norm"], **HEAD_NORMS},
        projections={**ATTENTION, "attn_q": ("self_attn.q_proj", ("gated queries",), "hidden"), **MLP},
        norm_offset=1.0,
        part_of_head=True,
        rope=frozenset({"default"}),
        keys=frozenset({*SSM, INTERVAL, SECTIONS}),
        change=_qwen35,
    ),
    "starcoder2": FileFamily(
        projections={**ATTENTION, **PLAIN_MLP},
        keys=frozenset({"attention.layer_norm_epsilon"}),
        biased=frozenset({*ATTENTION, *PLAIN_MLP}),
        layer_norm=True,
        norm_bias=True,
        change=_starcoder2,
    ),
    "cohere": FileFamily(
        COHERE_NORMS, keys=frozenset({LAYER_EPSILON, LOGIT_SCALE}), layer_norm=True, rope=PLAIN, change=_cohere
    ),
    "cohere2": FileFamily(
        COHERE_NORMS,
        keys=WINDOWS | {LAYER_EPSILON, LOGIT_SCALE},
        layer_norm=True,
        rope=PLAIN,
        change=_cohere2,
    ),
    "gpt_neox": FileFamily(
        projections=NEOX,
        part_of_head=True,
        keys=frozenset({LAYER_EPSILON, PARALLEL}),
        biased=frozenset(NEOX),
        layer_norm=True,
        norm_bias=True,
        body="gpt_neox",
        final_norm="final_layer_norm",
        embeddings="embed_in",
        by_head=frozenset({"attn_qkv"}),
        change=_gpt_neox,
    ),
}


def file_family(model_type: str) -> FileFamily:
    """The family of a config, even or uneven."""
    return FAMILIES[model_type.removeprefix("secateur_")]
