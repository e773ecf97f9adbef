"""Which of llama.cpp's architectures carries a model, and what of a model none of them can carry."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.errors import InputError, ModelError
from secateur.exporting.graphs import FAMILIES, Graph
from secateur.exporting.linear_attention import require_linear_attention
from secateur.exporting.rope import Rope, rope_of
from secateur.models import LayerWidths, adapter_of, layer_widths
from secateur.models.adapters import adapter_for
from secateur.models.widths import first_with_heads, head_dim_of, skipped, widths_in

LEAST_CHANNELS = 32  # a block of most quantised formats
SMOLLM3_STEP = 4  # every so many layers llama.cpp leaves out rotary positions


@dataclass(frozen=True)
class Layout:
    """How a model stands in the file.

    Attributes:
        graph: what runs it.
        widths: of each layer in the file; at least the model's own.
        head_dim: size of a head.
        rope: its rotary positions, as the graph takes them.
        filled: whether layers are filled up with zeros.
    """

    graph: Graph
    widths: Sequence[LayerWidths]
    head_dim: int
    rope: Rope
    filled: bool = False

    @property
    def per_layer(self) -> bool:
        """Whether the widths stand in the file as lists."""
        return len(set(self.widths)) > 1


def layout_of(model: PreTrainedModel | PeftModel) -> Layout:
    """Choose the architecture that carries a model.

    Raises:
        InputError: an adapter stands beside the weights.
        ModelError: no architecture carries it; the message says why.
    """
    if isinstance(model, PeftModel):
        raise InputError("an adapter stands beside the model's weights; merge it first (secateur.merge)")
    require_carried(model.config)
    family, widths, head_dim = adapter_of(model).model_type, layer_widths(model), head_dim_of(model)
    graphs, hidden, rope = FAMILIES[family], model.config.hidden_size, rope_of(model.config)
    square = first_with_heads(widths).num_attention_heads * head_dim == hidden
    if len(set(widths)) == 1 and (square or not graphs.even.square):
        return Layout(graphs.even, widths, head_dim, rope)
    other = graphs.uneven
    if any(map(skipped, widths)) and (other is None or not other.without_halves):
        raise ModelError(
            f"llama.cpp has a graph for layers without attention or MLP where they are otherwise Llama's, and this "
            f"model is {family}; cut it with --keep-halves"
        )
    if other is not None and (has_tied_embeddings(model) or not other.tied):
        carried = [_in_place_of_nothing(width, index, widths) for index, width in enumerate(widths)]
        return Layout(other, carried, head_dim, rope.of_whole_heads(head_dim))
    needed = hidden // head_dim if graphs.even.square else 0
    return Layout(graphs.even, [_widest(widths, needed, family)] * len(widths), head_dim, rope, filled=True)


def _in_place_of_nothing(width: LayerWidths, index: int, widths: Sequence[LayerWidths]) -> LayerWidths:
    """The widths in the file of a layer that may lack a half; what is wider there is filled with zeros.

    llama.cpp's deci takes the size of a head from the first layer's attention, and forgets a layer's attention where
    that has no MLP.
    """
    heads, groups = width.num_attention_heads, width.num_key_value_heads
    if index == 0 and not groups:
        first = first_with_heads(widths)
        heads, groups = first.num_attention_heads // first.num_key_value_heads, 1
    return LayerWidths(heads, groups, width.intermediate_size or LEAST_CHANNELS)


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
    if family not in FAMILIES:
        raise ModelError(
            f"the export to GGUF does not know '{family}'; it knows {', '.join(FAMILIES)}; other engines read the "
            "model's directory as it is"
        )
    graphs = FAMILIES[family]
    activation = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    if activation not in graphs.even.activations:
        raise ModelError(
            f"llama.cpp's graphs of {family} have the activation {graphs.even.activations[0]}, and this model has "
            f"{activation}; it cannot be exported"
        )
    for setting in graphs.lacks:
        if getattr(config, setting, None):
            raise ModelError(
                f"llama.cpp's graph of {family} has no {setting}, and this model has; it cannot be exported"
            )
    for setting in graphs.needs:
        if not getattr(config, setting, None):
            raise ModelError(
                f"llama.cpp's graph of {family} wants {setting}, and this model has none; it cannot be exported"
            )
    if graphs.even.tied and not config.tie_word_embeddings:
        raise ModelError(
            f"llama.cpp's graph of {family} multiplies by the embeddings at the end, and this model by other weights; "
            "it cannot be exported"
        )
    if graphs.even.square and graphs.uneven is None:
        _require_square(config, family)
    if graphs.even.windows:
        window_step(config)
    if graphs.even.linear_attention:
        require_linear_attention(config)
    if family == "smollm3":
        _require_every_fourth(config)
    rope_of(config)


def window_step(config: Any) -> int:
    """Every so many layers one attends to all tokens, the others to the last ones; 0 where none does.

    Raises:
        ModelError: they come in another order, which llama.cpp's graphs do not have; or all attend to all tokens, at
            which llama.cpp ends.
    """
    sliding = [kind == "sliding_attention" for kind in config.layer_types]
    if not any(sliding):
        raise ModelError(
            "llama.cpp's graph of this family wants layers with a sliding window, and this model has none; it cannot "
            "be exported"
        )
    for step in range(len(sliding) + 1):
        if sliding == [not step or (layer + 1) % step > 0 for layer in range(len(sliding))]:
            return step
    raise ModelError(
        "llama.cpp has layers with a sliding window in a fixed order, every so many layers one without, and this "
        "model (a layer removed?) in another; it cannot be exported"
    )


def _require_every_fourth(config: Any) -> None:
    layers = range(len(config.no_rope_layers))
    if [bool(rotated) for rotated in config.no_rope_layers] != [(layer + 1) % SMOLLM3_STEP > 0 for layer in layers]:
        raise ModelError(
            f"llama.cpp's graph of smollm3 leaves out rotary positions in every {SMOLLM3_STEP}th layer, and this model "
            "(a layer removed?) in others; it cannot be exported"
        )


def _require_square(config: Any, family: str) -> None:
    widths = widths_in(config)
    heads = max(width.num_attention_heads for width in widths)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    first = first_with_heads(widths)
    group = first.num_attention_heads // first.num_key_value_heads
    wanted = config.hidden_size // head_dim
    if config.hidden_size % head_dim or heads > wanted or wanted % group:
        raise ModelError(
            f"llama.cpp's graph of {family} has heads that together are as wide as the hidden states "
            f"({config.hidden_size}), and this model's {heads} heads of {head_dim} cannot be filled up to that; it "
            "cannot be exported"
        )


def _widest(widths: Sequence[LayerWidths], heads: int, family: str) -> LayerWidths:
    """A layer that holds each of the others with its query heads beside the same key/value heads.

    Args:
        heads: query heads that it has at least.
    """
    groups = {width.num_attention_heads / width.num_key_value_heads for width in widths}
    if len(groups) > 1:
        raise ModelError(
            "layers have different numbers of query heads to a key/value head, and llama.cpp has no graph of "
            f"{family} for that; it cannot be exported"
        )
    most = max(heads, *(width.num_attention_heads for width in widths))
    return LayerWidths(most, math.ceil(most / groups.pop()), max(width.intermediate_size for width in widths))
