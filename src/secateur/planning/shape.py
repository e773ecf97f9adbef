"""A model's widths out of its `config.json`: parameters and FLOPs counted from them, without any weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.models.adapters import Adapter, adapter_for
from secateur.models.config_file import check_config, reading
from secateur.models.config_schema import DeclaredConfig
from secateur.models.json_file import read_object
from secateur.models.quantised import refuse_quantised
from secateur.models.widths import LayerWidths

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelShape:
    """The widths of a decoder model.

    Attributes:
        family: llama, mistral, qwen2 or qwen3.
        vocab_size: rows of the embeddings.
        hidden_size: width of the residual stream.
        head_dim: width of an attention head.
        layers: each layer's heads and MLP channels.
        tied: whether embeddings and head are one tensor.
        bias: which projections have one: `qkv`, `o`, `mlp`.
        head_norms: whether queries and keys are normed head by head.
        dtype: number format of the checkpoint.
    """

    family: str
    vocab_size: int
    hidden_size: int
    head_dim: int
    layers: tuple[LayerWidths, ...]
    tied: bool
    bias: frozenset[str] = frozenset()
    head_norms: bool = False
    dtype: str = "bfloat16"

    def query_width(self, layer: LayerWidths) -> int:
        """Inputs of o_proj."""
        return layer.num_attention_heads * self.head_dim

    def key_width(self, layer: LayerWidths) -> int:
        """Outputs of k_proj and of v_proj."""
        return layer.num_key_value_heads * self.head_dim

    def projections(self, layer: LayerWidths) -> dict[str, tuple[int, int]]:
        """(out_features, in_features) of each projection of a layer, by name."""
        hidden, query, key = self.hidden_size, self.query_width(layer), self.key_width(layer)
        channels = layer.intermediate_size
        return {
            "q_proj": (query, hidden),
            "k_proj": (key, hidden),
            "v_proj": (key, hidden),
            "o_proj": (hidden, query),
            "gate_proj": (channels, hidden),
            "up_proj": (channels, hidden),
            "down_proj": (hidden, channels),
        }

    def matrix_parameters(self, layer: LayerWidths) -> int:
        """Weights of a layer's projections, without biases."""
        return sum(rows * columns for rows, columns in self.projections(layer).values())

    def layer_parameters(self, layer: LayerWidths) -> int:
        """All parameters of a layer, norms and biases included."""
        hidden, query, key = self.hidden_size, self.query_width(layer), self.key_width(layer)
        biases = {"qkv": query + 2 * key, "o": hidden, "mlp": 2 * layer.intermediate_size + hidden}
        norms = 2 * hidden + (2 * self.head_dim if self.head_norms else 0)
        return self.matrix_parameters(layer) + norms + sum(biases[name] for name in self.bias)

    @property
    def embedding_parameters(self) -> int:
        """Embeddings and head; one tensor where they are tied."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def matrices(self) -> int:
        """Weights of all layers' projections."""
        return sum(self.matrix_parameters(layer) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """All parameters; tied weights count once."""
        return self.embedding_parameters + self.hidden_size + sum(map(self.layer_parameters, self.layers))

    def body_flops(self, seqlen: int) -> float:
        """FLOPs of one token's way through all layers, as the mean over a window: 2 for a multiplication and addition.

        Attention counts the keys up to the token itself.
        """
        keys = (seqlen + 1) / 2
        attention = sum(4 * self.query_width(layer) * keys for layer in self.layers)
        return 2 * self.matrices + attention

    @property
    def head_flops(self) -> float:
        """FLOPs of one token's logits."""
        return 2 * self.hidden_size * self.vocab_size


def read_shape(file: Path) -> ModelShape:
    """The shape of the model whose `config.json` this is.

    Raises:
        ModelError: it cannot be read, is of another family, lacks a number or holds one that cannot be.
    """
    content = read_object(file)
    return shape_of(content, str(file))


def shape_of(content: Mapping[str, Any], source: str = "the config") -> ModelShape:
    """The shape of a model from the content of its `config.json`. `source` is what messages call it.

    Raises:
        ModelError: as `read_shape`.
    """
    declared = check_config(content, source)
    refuse_quantised(content, source)
    adapter = adapter_for(declared.model_type)
    with reading(source):
        stock = _with_defaults(adapter, declared)
    heads = declared.num_attention_heads
    # The stock classes leave the head size to the widths, or have one of their own.
    head_dim = declared.head_dim or getattr(stock, "head_dim", None) or declared.hidden_size // heads
    groups = declared.num_key_value_heads or getattr(stock, "num_key_value_heads", None) or heads
    bias = {"qkv"} if adapter.model_type == "qwen2" else set()
    bias |= {"qkv", "o"} if getattr(stock, "attention_bias", False) else set()
    bias |= {"mlp"} if getattr(stock, "mlp_bias", False) else set()
    return ModelShape(
        family=adapter.model_type,
        vocab_size=declared.vocab_size,
        hidden_size=declared.hidden_size,
        head_dim=head_dim,
        layers=tuple(declared.layers(groups)),
        tied=bool(stock.tie_word_embeddings),
        bias=frozenset(bias),
        head_norms=adapter.model_type == "qwen3",
        dtype=_number_format(declared),
    )


def _with_defaults(adapter: Adapter, declared: DeclaredConfig) -> Any:
    """The family's own config with what is declared, for what a `config.json` leaves to defaults."""
    told = {"head_dim", "tie_word_embeddings", "attention_bias", "mlp_bias", "num_key_value_heads"}
    given = {name: value for name, value in declared.model_dump(include=told).items() if value is not None}
    kind: Any = adapter.stock_config
    known = kind()
    extra = {name: value for name, value in given.items() if hasattr(known, name)}
    return kind(hidden_size=declared.hidden_size, num_attention_heads=declared.num_attention_heads, **extra)


def _number_format(declared: DeclaredConfig) -> str:
    stated = declared.stated_dtype or "float32"
    return stated if stated in BYTES else "bfloat16"
