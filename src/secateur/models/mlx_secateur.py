"""Decoder models whose layers have widths of their own, for mlx-lm: `per_layer_config`, read layer by layer.

secateur saves this file beside the weights of an uneven model, and of a Qwen2 with fewer heads, and names it as
`model_file` in `config.json`. mlx-lm runs it with `trust_remote_code=True`; it needs mlx-lm only.
"""

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import llama, qwen2, qwen3

FAMILIES = {
    "secateur_llama": llama,
    "secateur_mistral": llama,
    "secateur_qwen2": qwen2,
    "secateur_qwen3": qwen3,
    # mlx-lm's own takes hidden_size / heads for the size of a head, which an even cut of heads changes.
    "qwen2": qwen2,
}


class ModelArgs:
    """The config, as it stands in the file."""

    def __init__(self, config):
        self.config = config

    @classmethod
    def from_dict(cls, config):
        return cls(config)


def Model(args):
    """The family's model, with layers of the widths that the config gives each."""
    config, family = args.config, FAMILIES[args.config["model_type"]]
    # qwen2 takes the size of a head from here; `resized` sets the numbers of heads.
    heads = {"num_attention_heads": config["hidden_size"] // config["head_dim"]} if family is qwen2 else {}
    model = family.Model(family.ModelArgs.from_dict({**config, **heads}))
    of_layers = {int(index): widths for index, widths in config.get("per_layer_config", {}).items()}
    for index, layer in enumerate(model.layers):
        resized(layer, {**config, **of_layers.get(index, {})})
        for half in of_layers.get(index, {}).get("skip", ()):
            mixer, *norms = config["skipped_modules"][half]
            setattr(layer, mixer, Absent())
            for norm in norms:
                setattr(layer, norm, nn.Identity())
    return model


class Absent(nn.Module):
    """In the place of a half that a layer does not have: adds nothing. A cache learns how many tokens there are."""

    def __call__(self, x, mask=None, cache=None):
        if cache is not None:
            tokens = x[:, None, :, :1]
            cache.update_and_fetch(tokens, tokens)
        return mx.zeros_like(x)


def resized(layer, config):
    """Give a layer projections of these numbers of heads and of this width; the weights are loaded afterwards."""
    attention, mlp = layer.self_attn, layer.mlp
    hidden, width = config["hidden_size"], config["intermediate_size"]
    attention.n_heads, attention.n_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    queries, keys = attention.n_heads * config["head_dim"], attention.n_kv_heads * config["head_dim"]
    for half, name, inputs, outputs in (
        (attention, "q_proj", hidden, queries),
        (attention, "k_proj", hidden, keys),
        (attention, "v_proj", hidden, keys),
        (attention, "o_proj", queries, hidden),
        (mlp, "gate_proj", hidden, width),
        (mlp, "up_proj", hidden, width),
        (mlp, "down_proj", width, hidden),
    ):
        setattr(half, name, nn.Linear(inputs, outputs, bias="bias" in getattr(half, name)))
