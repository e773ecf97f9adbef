"""A model's widths out of its `config.json`: parameters and FLOPs counted from them, without any weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from secateur.costs.memory import window_of
from secateur.models.adapters import Adapter, adapter_of
from secateur.models.config_file import build_config, check_config, reading
from secateur.models.config_schema import DeclaredConfig
from secateur.models.halves import Half
from secateur.models.quantised import refuse_quantised
from secateur.models.quiet import quiet
from secateur.models.widths import count_parameters
from secateur.planning.mixing import GatedDeltaRule, Mixing, SoftmaxAttention

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class HalfShape:
    """The widths of a layer's attention or MLP.

    Attributes:
        projections: (out_features, in_features) of each by name, in the order of use; the output projection is the
            last. None of a half that the layer goes without.
        units: GQA groups or MLP channels; 1 where single ones cannot leave, 0 of a half that is not there.
        divisible: whether they can.
    """

    projections: Mapping[str, tuple[int, int]] = field(hash=False)
    units: int
    divisible: bool = True

    @cached_property
    def width(self) -> int:
        """Inputs of the output projection."""
        return list(self.projections.values())[-1][1] if self.projections else 0

    @cached_property
    def input_rows(self) -> int:
        """Numbers that the input projections make of a token."""
        return sum(rows for rows, _ in list(self.projections.values())[:-1])

    @cached_property
    def matrices(self) -> int:
        """Weights of the projections, without biases."""
        return sum(rows * columns for rows, columns in self.projections.values())


@dataclass(frozen=True)
class LayerShape:
    """The widths of a decoder layer.

    Attributes:
        attention: its projections.
        mlp: its projections.
        mixing: how attention mixes tokens between its projections.
        parameters: all of the layer, norms and biases included.
        more_normed: numbers of a token that are normed by RMSNorms beside two times the residual stream, or fewer; a
            LayerNorm counts as what it keeps for the backward pass.
    """

    attention: HalfShape
    mlp: HalfShape
    mixing: Mixing
    parameters: int
    more_normed: float = 0

    @property
    def halves(self) -> list[HalfShape]:
        """Those that it has."""
        return [half for half in (self.attention, self.mlp) if half.units]

    @cached_property
    def matrices(self) -> int:
        """Weights of the projections, without biases."""
        return self.attention.matrices + self.mlp.matrices


@dataclass(frozen=True)
class ModelShape:
    """The widths of a decoder model.

    Attributes:
        family: its `model_type`, of an uneven model that of the stock one.
        vocab_size: rows of the embeddings.
        hidden_size: width of the residual stream.
        layers: the widths of each.
        parameters: all of them; tied weights count once.
        embedding_parameters: of embeddings and head; one tensor where they are tied.
        dtype: number format of the checkpoint.
        parallel: whether an MLP reads what its layer is given.
        other_matrices: weights of what a token is multiplied by beside the projections and the head.
    """

    family: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerShape, ...]
    parameters: int
    embedding_parameters: int
    dtype: str = "bfloat16"
    parallel: bool = False
    other_matrices: int = 0

    @property
    def stream_width(self) -> int:
        """Numbers of a token that a stream of calibration text keeps: in a parallel block what it was given as well."""
        return (1 + self.parallel) * self.hidden_size

    @cached_property
    def matrices(self) -> int:
        """Weights of all layers' projections."""
        return sum(layer.matrices for layer in self.layers)

    @cached_property
    def divisible_matrices(self) -> int:
        """Weights of the projections that single units can leave."""
        return sum(half.matrices for layer in self.layers for half in layer.halves if half.divisible)

    @cached_property
    def largest_layer(self) -> int:
        """Parameters of the widest layer."""
        return max(layer.parameters for layer in self.layers)

    def cached(self, seqlen: int) -> int:
        """Numbers that a cache holds of a sequence."""
        return sum(layer.mixing.cached(seqlen) for layer in self.layers)

    def body_flops(self, seqlen: int) -> float:
        """FLOPs of one token's way through all layers, the mean over a window: 2 for a multiplication and addition."""
        matrices = self.matrices + self.other_matrices
        return 2 * matrices + sum(layer.mixing.flops(seqlen) for layer in self.layers)

    @property
    def head_flops(self) -> float:
        """FLOPs of one token's logits."""
        return 2 * self.hidden_size * self.vocab_size


def shape_of(content: Mapping[str, Any], source: str = "the config") -> ModelShape:
    """The shape of a model from the content of its `config.json`. `source` is what messages call it.

    Raises:
        ModelError: it is of another family, lacks a number or holds one that cannot be.
    """
    model = bare_of(content, source)
    declared, adapter, config = check_config(content, source), adapter_of(model), model.config
    layers = [_layer_shape(adapter, layer, config, index) for index, layer in enumerate(adapter.layers(model))]
    once = {layer: layer for layer in layers}  # equal layers are one object, whose sums are made once
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    return ModelShape(
        family=adapter.model_type,
        vocab_size=declared.vocab_size,
        hidden_size=declared.hidden_size,
        layers=tuple(once[layer] for layer in layers),
        parameters=count_parameters(model),
        embedding_parameters=count_parameters(nn.ModuleList(embeddings)),
        dtype=_number_format(declared),
        parallel=any(adapter.half(layer, "mlp").is_parallel for layer in adapter.layers(model)),
        other_matrices=_other_matrices(adapter, model),
    )


def bare_of(content: Mapping[str, Any], source: str = "the config") -> PreTrainedModel:
    """A model from the content of its `config.json`, without weights. Arguments and errors as `shape_of`."""
    check_config(content, source)
    refuse_quantised(content, source)
    with quiet(), reading(source):
        config = build_config(content)
    with quiet(), reading(source), torch.device("meta"), no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        model.tie_weights()  # which comes with the initial values that are left out
    return model


def _other_matrices(adapter: Adapter, model: PreTrainedModel) -> int:
    """Weights of the decoder's linear modules that are no projections of halves."""
    layers = adapter.layers(model)
    known = {id(linear) for layer in layers for linear in adapter.projections(layer).values()}
    linears = (module for module in adapter.body(model).modules() if isinstance(module, nn.Linear))
    return sum(linear.weight.numel() for linear in linears if id(linear) not in known)


def _layer_shape(adapter: Adapter, layer: nn.Module, config: PreTrainedConfig, index: int) -> LayerShape:
    attention, mlp = adapter.half(layer, "attention"), adapter.half(layer, "mlp")
    return LayerShape(
        attention=_half_shape(attention),
        mlp=_half_shape(mlp),
        mixing=_mixing(attention, config, window_of(config, index)),
        parameters=count_parameters(layer),
        more_normed=_more_normed(attention, mlp, config.hidden_size) + _normed_beside(layer, attention, mlp, config),
    )


def _half_shape(half: Half) -> HalfShape:
    projections = {name: (linear.out_features, linear.in_features) for name, linear in half.projections.items()}
    return HalfShape(projections, half.units, half.names.divisible)


def _mixing(attention: Half, config: PreTrainedConfig, window: float) -> Mixing:
    if attention.is_absent:
        return SoftmaxAttention(0, 0, window)
    if attention.names.softmax:
        queries, keys = attention.output.in_features, attention.cached_heads * attention.head_dim
        eager = config._attn_implementation == "eager"  # Transformers' choice where kernels do not cap scores
        return SoftmaxAttention(queries, keys, window, queries // attention.head_dim if eager else 0)
    mixer: Any = attention.mixer
    return GatedDeltaRule(mixer.num_v_heads, mixer.head_k_dim, mixer.head_v_dim)


def _more_normed(attention: Half, mlp: Half, hidden: int) -> float:
    """Numbers of a token that are normed beside two times the residual stream: after projections, and in attention."""
    around = {norm for half in (attention, mlp) for norm in (half.norm, half.norm_after) if norm is not None}
    # Of queries and keys, head by head or all together; linear attention norms what its heads give.
    inside = next((module for module in attention.mixer.modules() if "Norm" in type(module).__name__), None)
    keys = attention.cached_heads * attention.head_dim if inside and attention.names.softmax else 0
    queries = attention.output.in_features if inside else 0
    within = 0 if inside is None else _kept_by(inside) * (queries + keys)
    return (sum(map(_kept_by, around)) - 2) * hidden + within


def _kept_by(norm: nn.Module) -> float:
    """What a norm keeps for the backward pass, of what an RMSNorm of Transformers' does: two numbers for each.

    PyTorch's LayerNorm keeps what goes in; those that Transformers writes out, the difference from the mean twice.
    """
    if isinstance(norm, nn.LayerNorm):
        return 0.5
    return 1.5 if "LayerNorm" in type(norm).__name__ else 1.0


def _normed_beside(layer: nn.Module, attention: Half, mlp: Half, config: PreTrainedConfig) -> int:
    """Numbers of a token that norms outside of the halves take, and as many of the stream before what they end."""
    known = {name for names in (attention.names, mlp.names) for name in (names.mixer, *names.norms)}
    others = [child for name, child in layer.named_children() if name not in known]
    return 2 * int(config.hidden_size) * sum("Norm" in type(child).__name__ for child in others)


def _number_format(declared: DeclaredConfig) -> str:
    stated = declared.stated_dtype or "float32"
    return stated if stated in BYTES else "bfloat16"
