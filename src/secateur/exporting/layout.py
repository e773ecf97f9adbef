"""Which of llama.cpp's architectures carries a model, and what of a model none of them can carry.

An architecture of llama.cpp is a graph written in C++. Those of Llama, Qwen2 and Qwen3 take one width for all layers.
`deci` (Nemotron's) is Llama's graph with query heads, key/value heads and MLP widths read layer by layer. It applies
projections' biases where a file has them, and so carries Qwen2 as well: uneven, and with heads that do not add up to
the hidden size, which `qwen2` cannot have. `openelm` reads widths per layer too and norms queries and keys, as Qwen3
does; it always multiplies by the embeddings at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import gguf
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.errors import InputError, ModelError
from secateur.exporting.rope import rope_of
from secateur.models import LayerWidths, adapter_of, layer_widths
from secateur.models.adapters import adapter_for
from secateur.models.widths import head_dim_of

ARCH = gguf.MODEL_ARCH
EVEN = {"llama": ARCH.LLAMA, "mistral": ARCH.LLAMA, "qwen2": ARCH.QWEN2, "qwen3": ARCH.QWEN3}
UNEVEN = {"llama": ARCH.DECI, "mistral": ARCH.DECI, "qwen2": ARCH.DECI}
INTERLEAVED = (ARCH.LLAMA, ARCH.DECI)


@dataclass(frozen=True)
class Layout:
    """How a model stands in the file.

    Attributes:
        architecture: the graph that runs it.
        widths: of each layer in the file; at least the model's own.
        head_dim: size of a head.
        filled: whether layers are filled up with zeros to the width of the widest.
    """

    architecture: gguf.MODEL_ARCH
    widths: Sequence[LayerWidths]
    head_dim: int
    filled: bool = False

    @property
    def per_layer(self) -> bool:
        """Whether the widths stand in the file as lists."""
        return len(set(self.widths)) > 1

    @property
    def interleaved(self) -> bool:
        """Whether the graph rotates neighbours (0, 1), (2, 3) … where Transformers rotates (0, d/2), (1, d/2 + 1) …"""
        return self.architecture in INTERLEAVED

    @property
    def fused(self) -> bool:
        """Whether queries, keys and values are one matrix."""
        return self.architecture is ARCH.OPENELM


def layout_of(model: PreTrainedModel | PeftModel) -> Layout:
    """Choose the architecture that carries a model.

    Raises:
        InputError: an adapter stands beside the weights.
        ModelError: no architecture carries it; the message says why.
    """
    if isinstance(model, PeftModel):
        raise InputError("an adapter stands beside the model's weights; merge it first (secateur.merge)")
    adapter, widths = adapter_of(model), layer_widths(model)
    require_carried(model.config)
    layout = Layout(EVEN[adapter.model_type], widths, head_dim_of(model))
    square = layout.head_dim * widths[0].num_attention_heads == model.config.hidden_size
    if not layout.per_layer and (square or layout.architecture is not ARCH.QWEN2):
        return layout
    if adapter.model_type in UNEVEN:
        return replace(layout, architecture=UNEVEN[adapter.model_type])
    if has_tied_embeddings(model):
        return replace(layout, architecture=ARCH.OPENELM)
    return replace(layout, widths=[_widest(widths)] * len(widths), filled=True)


def has_tied_embeddings(model: PreTrainedModel) -> bool:
    """Whether the head multiplies by the embeddings."""
    head = cast(nn.Linear, model.get_output_embeddings())
    return head.weight.data_ptr() == embeddings(model).data_ptr()


def embeddings(model: PreTrainedModel) -> Tensor:
    """The tokens' embeddings, (vocabulary, hidden_size)."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight


def require_carried(config: PreTrainedConfig) -> None:
    """Check by its config alone that llama.cpp can run a model, cut or uncut.

    Raises:
        ModelError: the family is not supported, or it has what llama.cpp's graph of that family lacks.
    """
    family = adapter_for(config.model_type).model_type
    if family not in EVEN:
        raise ModelError(f"models are exported to llama.cpp from {', '.join(EVEN)}, and this one is {family}")
    if config.hidden_act not in ("silu", "swish"):
        raise ModelError(
            f"llama.cpp's graphs of {family} have the activation silu, and this model has {config.hidden_act}; it "
            "cannot be exported"
        )
    if family == "qwen3" and getattr(config, "attention_bias", False):
        raise ModelError("llama.cpp's graph of qwen3 has no attention_bias, and this model has; it cannot be exported")
    rope_of(config)


def _widest(widths: Sequence[LayerWidths]) -> LayerWidths:
    """A layer that holds each of the others with its query heads beside the same key/value heads."""
    groups = {width.num_attention_heads / width.num_key_value_heads for width in widths}
    if len(groups) > 1:
        raise ModelError(
            "layers have different numbers of query heads to a key/value head, and llama.cpp has no graph for that "
            "with Qwen3's norms and a head of its own; it cannot be exported"
        )
    return LayerWidths(
        max(width.num_attention_heads for width in widths),
        max(width.num_key_value_heads for width in widths),
        max(width.intermediate_size for width in widths),
    )
