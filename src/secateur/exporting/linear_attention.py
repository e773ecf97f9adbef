"""Qwen3.5's layers with linear attention as llama.cpp reads them: its values heads in another order."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import gguf
import torch
from torch import Tensor, nn

from secateur.errors import ModelError

Change = Callable[[Tensor], Tensor]


def require_linear_attention(config: Any) -> None:
    """Check that llama.cpp's graph has the linear attention of a config.

    Raises:
        ModelError: it has not.
    """
    if config.linear_key_head_dim != config.linear_value_head_dim:
        raise ModelError(
            f"llama.cpp's graph of qwen3_5_text has one size of heads in linear attention, and this model "
            f"{config.linear_key_head_dim} for keys and {config.linear_value_head_dim} for values; it cannot be "
            "exported"
        )
    attention_step(config)


def attention_step(config: Any) -> int:
    """Every so many layers one has full attention, the others linear attention.

    Raises:
        ModelError: they come in another order, which llama.cpp's graph does not have.
    """
    linear = [kind == "linear_attention" for kind in config.layer_types]
    for step in range(1, len(linear) + 2):
        if linear == [(layer + 1) % step > 0 for layer in range(len(linear))]:
            return step
    raise ModelError(
        "llama.cpp's graph of qwen3_5_text has full attention every so many layers, and this model (a layer removed?) "
        "in another order; it cannot be exported"
    )


def write_linear_attention(writer: gguf.GGUFWriter, config: Any, rotated: int) -> None:
    """Add the keys that say what linear attention is.

    Args:
        config: the model's.
        rotated: values of a head that are rotated in the layers with full attention.
    """
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
    writer.add_full_attention_interval(attention_step(config))
    # Of text, an image's time, height and width are one position; each takes every third frequency.
    frequencies = rotated // 2
    writer.add_rope_dimension_sections([*(math.ceil((frequencies - part) / 3) for part in range(3)), 0])


def changes_in(mixer: nn.Module, config: Any) -> Iterator[tuple[Tensor, tuple[int, ...], Change]]:
    """What stands otherwise in the file: a weight, its shape there, and what makes it of its values in float32."""
    heads, rows = _order_of_heads(config), order_of_values(config)
    key_rows = 2 * config.linear_num_key_heads * config.linear_key_head_dim
    after_keys = torch.cat([torch.arange(key_rows), key_rows + rows])
    parts: dict[str, tuple[Tensor, Change]] = {
        "in_proj_qkv.weight": (after_keys, _same),
        "in_proj_z.weight": (rows, _same),
        "in_proj_b.weight": (heads, _same),
        "in_proj_a.weight": (heads, _same),
        "conv1d.weight": (after_keys, partial(torch.squeeze, dim=1)),
        "A_log": (heads, _decay),
        "dt_bias": (heads, _same),
    }
    for name, (order, change) in parts.items():
        weight = mixer.get_parameter(name)
        shape = (weight.shape[0], weight.shape[2]) if name == "conv1d.weight" else tuple(weight.shape)
        yield weight, shape, partial(_reordered, order=order, change=change)
    output = cast(nn.Linear, mixer.out_proj).weight
    yield output, tuple(output.shape), partial(torch.index_select, dim=1, index=rows)


def order_of_values(config: Any) -> Tensor:
    """The order in the file of all that the heads of values hold, indices."""
    size = config.linear_value_head_dim
    return (_order_of_heads(config)[:, None] * size + torch.arange(size)).flatten()


def _order_of_heads(config: Any) -> Tensor:
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    return torch.arange(values).reshape(keys, values // keys).T.flatten()


def _reordered(weight: Tensor, order: Tensor, change: Change) -> Tensor:
    return change(weight)[order]


def _same(weight: Tensor) -> Tensor:
    return weight


def _decay(weight: Tensor) -> Tensor:
    return -weight.exp()
