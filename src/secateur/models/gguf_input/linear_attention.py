"""Qwen3.5's layers with linear attention: heads of values stand in another order in a GGUF file than in the model."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from secateur.models.gguf_input.place import Place


def linear_attention(config: Any, path: str) -> dict[str, Place]:
    """By their short names, the tensors of such a layer's attention.

    Args:
        config: the model's.
        path: of the attention in the model's state.
    """
    keys, values, size = config.linear_num_key_heads, config.linear_num_value_heads, config.linear_value_head_dim
    hidden, key_rows, value_rows = config.hidden_size, 2 * keys * config.linear_key_head_dim, values * size
    # The file has the first head of every group, then the second of every group; the model group after group.
    heads = torch.arange(values).reshape(values // keys, keys).T.flatten()
    rows = (heads[:, None] * size + torch.arange(size)).flatten()
    after_keys = torch.cat([torch.arange(key_rows), key_rows + rows])

    def of(name: str, shape: tuple[int, ...], order: Tensor, dim: int = 0) -> Place:
        change = partial(torch.index_select, dim=dim, index=order)
        return Place({f"{path}{name}": shape[0]}, shape, change=change)

    kernel = config.linear_conv_kernel_dim
    conv = (key_rows + value_rows, kernel)
    return {
        "attn_qkv.weight": of("in_proj_qkv.weight", (key_rows + value_rows, hidden), after_keys),
        "attn_gate.weight": of("in_proj_z.weight", (value_rows, hidden), rows),
        "ssm_beta.weight": of("in_proj_b.weight", (values, hidden), heads),
        "ssm_alpha.weight": of("in_proj_a.weight", (values, hidden), heads),
        "ssm_out.weight": of("out_proj.weight", (hidden, value_rows), rows, dim=1),
        "ssm_dt.bias": of("dt_bias", (values,), heads),
        "ssm_norm.weight": Place({f"{path}norm.weight": size}, (size,)),
        "ssm_a": Place({f"{path}A_log": values}, (values,), change=partial(_decay, order=heads)),
        "ssm_conv1d.weight": Place(
            {f"{path}conv1d.weight": conv[0]}, conv, change=partial(_convolution, order=after_keys)
        ),
    }


def _decay(weight: Tensor, order: Tensor) -> Tensor:
    return (-weight[order]).log()


def _convolution(weight: Tensor, order: Tensor) -> Tensor:
    return weight[order][:, None]
