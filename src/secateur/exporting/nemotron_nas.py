"""A model whose MLPs differ in width as `nemotron-nas`: a Llama whose layers vLLM, SGLang and mlx-lm read one by one.

All three have a class for it (`DeciLMForCausalLM`), each layer's MLP width being said as a multiple of the hidden size.
What they make of that is a multiple of 256. What one of them lacks is refused: mlp_bias is dropped by SGLang, and the
size of a head is the hidden size by the number of heads in mlx-lm.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub import save_torch_state_dict
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from secateur import files
from secateur.errors import InputError, ModelError
from secateur.exporting.config import NumberFormat
from secateur.exporting.layout import embeddings, has_tied_embeddings
from secateur.exporting.result import ExportResult
from secateur.models import LayerWidths, adapter_of, count_parameters, layer_widths
from secateur.models.adapters import adapter_for
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.quiet import quiet
from secateur.models.rope_keys import older_rope_keys
from secateur.models.widths import first_with_heads, heads_make_up_hidden_size, widths_in

MULTIPLE = 256
ARCHITECTURE, MODEL_TYPE = "DeciLMForCausalLM", "nemotron-nas"
CONFIG_CODE = Path(__file__).with_name("configuration_nemotron_nas.py")
HELD = ("llama", "mistral", "qwen2")
ROPE_KINDS = ("default", "linear", "llama3")
ABSENT = {"no_op": True, "replace_with_linear": False}
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
NAMES = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32"}
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def export(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: str | Path,
    dtype: NumberFormat | None = None,
    *,
    overwrite: bool = False,
    extras: Mapping[str, object] | None = None,
) -> ExportResult:
    """Write a model as a `nemotron-nas` directory. Arguments and errors as `secateur.export`.

    Args:
        dtype: the weights' number format; unless given that of the checkpoint that the model came from.
    """
    if isinstance(model, PeftModel):
        raise InputError("an adapter stands beside the model's weights; merge it first (secateur.merge)")
    require_held(model.config)
    require_held_widths(model.config)
    widths = layer_widths(model)
    require_in_memory(model)
    require_finite(model, "the model")
    stored = DTYPES[dtype] if dtype else getattr(model, "checkpoint_dtype", model.dtype)
    weights = _weights(model, stored)
    with files.new_directory(directory, overwrite) as staging:
        with quiet():
            save_torch_state_dict(weights, staging)
            tokenizer.save_pretrained(staging)
            if model.generation_config is not None:
                model.generation_config.save_pretrained(staging)
        files.write_json(staging / "config.json", settings_of(model, widths, stored))
        files.write_bytes(staging / CONFIG_CODE.name, CONFIG_CODE.read_bytes())
        size = sum(file.stat().st_size for file in staging.glob("*.safetensors"))
        for name, content in (extras or {}).items():
            files.write_extra(staging / name, content)
    return ExportResult(
        format="nemotron-nas",
        architecture=ARCHITECTURE,
        per_layer=len(set(widths)) > 1,
        pre_tokenizer=None,
        dtype=NAMES[stored],
        parameters=count_parameters(model),
        parameters_in_file=sum(weight.numel() for weight in weights.values()),
        bytes=size,
        tensors=dict(Counter(NAMES[weight.dtype] for weight in weights.values())),
    )


def settings_of(model: PreTrainedModel, widths: Sequence[LayerWidths], dtype: torch.dtype) -> dict[str, Any]:
    """The content of `config.json`.

    Args:
        model: a model that `require_held` and `require_held_widths` pass.
        widths: of its layers.
        dtype: of the weights in the directory.
    """
    config, hidden_size = model.config, model.config.hidden_size
    first = first_with_heads(widths)
    heads = first.num_attention_heads
    rope = {"rope_parameters": dict(config.rope_parameters), "max_position_embeddings": config.max_position_embeddings}
    name = str(dtype).removeprefix("torch.")
    return {
        "architectures": [ARCHITECTURE],
        "auto_map": {"AutoConfig": f"{CONFIG_CODE.stem}.NemotronNasConfig"},
        "model_type": MODEL_TYPE,
        "block_configs": [_block(width, hidden_size) for width in widths],
        "hidden_size": hidden_size,
        "num_hidden_layers": len(widths),
        "num_attention_heads": heads,
        "num_key_value_heads": first.num_key_value_heads,
        "head_dim": hidden_size // heads,
        "intermediate_size": max(width.intermediate_size for width in widths),
        "hidden_act": "silu",
        "attention_bias": _has_attention_bias(model),
        "mlp_bias": False,
        "rms_norm_eps": config.rms_norm_eps,
        "vocab_size": embeddings(model).shape[0],
        "tie_word_embeddings": has_tied_embeddings(model),
        **rope,
        **older_rope_keys(rope),
        **{token: getattr(config, token) for token in TOKENS},
        "dtype": name,
        "torch_dtype": name,  # where programs on Transformers 4 look
        "transformers_version": transformers.__version__,
    }


def ffn_mult(width: int, hidden_size: int) -> float:
    """The number that stands for an MLP width: engines take 2/3 of it times the hidden size, and the next multiple up.

    mlx-lm rounds it to six digits first, the others do not; what any of them rounds stays within the 256 below `width`.
    """
    return round(3 * width / (2 * hidden_size), 6)


def require_held(config: PreTrainedConfig) -> None:
    """Check by its config alone, whatever its layers' widths, that a model can be written as `nemotron-nas`.

    Raises:
        ModelError: it has what one of the engines lacks in that class.
    """
    family = adapter_for(config.model_type).model_type
    if family == "qwen3":
        raise _not_held("norms of queries and keys (qwen3)")
    if family not in HELD:
        raise _not_held(f"layers that compute as {family}'s do")
    if config.hidden_act not in ("silu", "swish"):
        raise _not_held(f"the activation {config.hidden_act}")
    if getattr(config, "mlp_bias", False):
        raise _not_held("biases in its MLPs")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        raise _not_held(f"a sliding window of {window} tokens")
    rope = dict(config.rope_parameters)
    kind = rope.get("rope_type", "default")
    if kind not in ROPE_KINDS:
        raise _not_held(f"rotary positions of the type '{kind}' (known are {', '.join(ROPE_KINDS)})")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _not_held("rotary positions in a part of each head")


def require_held_widths(config: PreTrainedConfig) -> None:
    """Check that layers of the widths that a config states can be written as `nemotron-nas`.

    Raises:
        ModelError: heads were cut, an MLP's width is no multiple of 256, or the first layer has no attention.
    """
    widths, hidden_size = widths_in(config), config.hidden_size
    if not widths[0].num_attention_heads:
        raise ModelError(
            "the first layer goes without attention, at which vLLM's nemotron-nas ends; cut the model with --freeze 0"
        )
    first = first_with_heads(widths)
    for index, width in enumerate(widths):
        if width.num_attention_heads and _heads(width) != _heads(first):
            raise ModelError(
                f"layer {index} has {_heads(width)} and another has {_heads(first)}, and nemotron-nas holds cuts of "
                "the MLP only; cut with --target mlp"
            )
        if width.intermediate_size % MULTIPLE:
            raise ModelError(
                f"layer {index} has {width.intermediate_size} MLP channels, and nemotron-nas holds multiples of "
                f"{MULTIPLE}; cut with --channel-multiple {MULTIPLE}"
            )
    if not heads_make_up_hidden_size(config):
        raise ModelError(
            f"{first.num_attention_heads} heads of {config.head_dim} do not make up the hidden size {hidden_size}, "
            "which nemotron-nas takes for granted in mlx-lm; a model of such heads is not held, whatever its MLPs lose"
        )


def _heads(width: LayerWidths) -> str:
    # Both numbers: layers may differ in either.
    return f"{width.num_attention_heads} query heads for {width.num_key_value_heads} key/value heads"


def _not_held(what: str) -> ModelError:
    return ModelError(f"the model has {what}, which nemotron-nas does not hold in vLLM, SGLang and mlx-lm alike")


def _block(width: LayerWidths, hidden_size: int) -> dict[str, dict[str, Any]]:
    there = {"no_op": False, "replace_with_linear": False}
    group = width.num_attention_heads // max(width.num_key_value_heads, 1)
    multiplier = ffn_mult(width.intermediate_size, hidden_size)
    # mlx-lm takes no key that is not of the half.
    return {
        "attention": {"n_heads_in_group": group or None, **(there if group else ABSENT)},
        "ffn": {"ffn_mult": multiplier or None, **(there if width.intermediate_size else ABSENT)},
    }


def _has_attention_bias(model: PreTrainedModel) -> bool:
    adapter = adapter_of(model)
    halves = (adapter.half(layer, "attention") for layer in adapter.layers(model))
    return next(half for half in halves if not half.is_absent).linears[0].bias is not None


def _weights(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of the directory: those of the model, under its names.

    Engines read a bias of o_proj wherever queries have one. Qwen2 has none there; zeros add nothing.
    """
    adapter = adapter_of(model)
    names = {module: name for name, module in cast(nn.Module, model).named_modules()}
    weights = {name: weight.detach() for name, weight in cast(nn.Module, model).state_dict().items()}
    if has_tied_embeddings(model):
        del weights[f"{names[cast(nn.Module, model.get_output_embeddings())]}.weight"]
    if _has_attention_bias(model):
        for layer in adapter.layers(model):
            half = adapter.half(layer, "attention")
            if not half.is_absent:
                weights.setdefault(f"{names[half.output]}.bias", torch.zeros(half.output.out_features))
    return {name: _in_format(name, weight, dtype) for name, weight in weights.items()}


def _in_format(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float16 and float(weight.abs().max()) > torch.finfo(dtype).max:
        raise ModelError(f"{name} holds weights beyond float16's 65504; export with dtype bf16")
    return weight.to("cpu", dtype).contiguous()
