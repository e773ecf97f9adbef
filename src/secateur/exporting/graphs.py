"""llama.cpp's graphs of the families: a table of what each reads and what it lacks.

An architecture of llama.cpp is a graph written in C++. Most take one width for all layers. `deci` (Nemotron's) is
Llama's graph with query heads, key/value heads and MLP widths read layer by layer. It applies projections' biases where
a file has them, and so carries all families that compute as Llama does once their weights have taken in what the
graph lacks. `openelm` reads widths per layer too and norms queries and keys, as Qwen3 does; it always multiplies by the
embeddings at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import gguf

ARCH = gguf.MODEL_ARCH
PLAIN = frozenset({"default", "linear"})
QKV = ("attn_q", "attn_k", "attn_v")
GATE_UP = ("ffn_gate", "ffn_up")
TANH_GELU = ("gelu_pytorch_tanh",)
# What llama.cpp calls GELU is the tanh approximation, up to 5e-4 from the exact one, in which GPT-NeoX was trained.
ANY_GELU = ("gelu", "gelu_new", "gelu_fast", *TANH_GELU)


@dataclass(frozen=True)
class Graph:
    """What a graph reads, and how.

    Attributes:
        architecture: its name in the file.
        neighbours: whether it rotates (0, 1), (2, 3) … where Transformers rotates (0, d/2), (1, d/2 + 1) …; of Cohere
            both rotate the former.
        per_layer: whether it reads widths layer by layer.
        square: whether all query heads together have to be as wide as the hidden states.
        tied: whether it always multiplies by the embeddings at the end.
        own_head: whether it wants the matrix at the end in the file even where it is the embeddings.
        joined: tensors that hold the rows of several projections, one below the other.
        activations: of the MLP, any of these names of Transformers.
        rope: the kinds of rotary positions that it computes.
        part_of_head: whether it can rotate a part of each head.
        windows: whether it has layers that attend to the last tokens only.
        norm_offset: what is added to the weights of norms, as in `x · (1 + weight)`.
        large: the number of layers by which it takes a model for the largest of its family, and divides scores by the
            root of hidden size over heads instead of that of the head's size.
        scaled: whether it takes Granite's multipliers from the file.
        linear_attention: whether some of its layers have linear attention.
        without_halves: whether layers may lack their attention or their MLP.
        more: settings of the config that it reads, with their keys after the architecture's name.
    """

    architecture: gguf.MODEL_ARCH
    neighbours: bool = False
    per_layer: bool = False
    square: bool = False
    tied: bool = False
    own_head: bool = False
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    activations: tuple[str, ...] = ("silu", "swish")
    rope: frozenset[str] = PLAIN | {"yarn"}
    part_of_head: bool = False
    windows: bool = False
    norm_offset: float = 0.0
    large: int = 0
    scaled: bool = False
    linear_attention: bool = False
    without_halves: bool = False
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return gguf.MODEL_ARCH_NAMES[self.architecture]


WITH_FACTORS = PLAIN | {"yarn", "llama3"}
LLAMA = Graph(ARCH.LLAMA, neighbours=True, rope=WITH_FACTORS)
DECI = Graph(ARCH.DECI, neighbours=True, per_layer=True, without_halves=True, rope=WITH_FACTORS)
OPENELM = Graph(ARCH.OPENELM, per_layer=True, tied=True, joined={"attn_qkv": QKV})
GEMMA = Graph(ARCH.GEMMA2, activations=TANH_GELU, rope=PLAIN, windows=True, norm_offset=1.0, large=46, tied=True)
LAYER_NORM = {"layer_norm_eps": "attention.layer_norm_epsilon"}
OF_COHERE = {**LAYER_NORM, "logit_scale": "logit_scale"}
OLMO = Graph(ARCH.OLMO2, square=True, own_head=True)


@dataclass(frozen=True)
class Graphs:
    """The graphs of a family.

    Attributes:
        even: for layers of one width.
        uneven: for layers of different widths. Without one layers are filled up with zeros for the even graph.
        lacks: settings of the config that the graphs do not read, and that have to be off.
        needs: settings of the config without which the graphs have no way to go.
    """

    even: Graph
    uneven: Graph | None = None
    lacks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


FAMILIES: dict[str, Graphs] = {
    "llama": Graphs(LLAMA, DECI),
    "mistral": Graphs(LLAMA, DECI),
    "qwen2": Graphs(Graph(ARCH.QWEN2, square=True), DECI),
    "qwen3": Graphs(Graph(ARCH.QWEN3), OPENELM, lacks=("attention_bias",)),
    "gemma2": Graphs(GEMMA, lacks=("attention_bias",), needs=("attn_logit_softcapping", "final_logit_softcapping")),
    "gemma3_text": Graphs(
        Graph(ARCH.GEMMA3, activations=TANH_GELU, rope=PLAIN, windows=True, norm_offset=1.0, large=62),
        lacks=("attention_bias", "attn_logit_softcapping", "final_logit_softcapping"),
    ),
    "phi3": Graphs(
        Graph(
            ARCH.PHI3,
            square=True,
            joined={"attn_qkv": QKV, "ffn_up": GATE_UP},
            rope=frozenset({"default", "longrope"}),
            part_of_head=True,
        ),
        DECI,
    ),
    "smollm3": Graphs(Graph(ARCH.SMOLLM3, neighbours=True), lacks=("attention_bias", "mlp_bias")),
    "olmo2": Graphs(OLMO, lacks=("attention_bias",)),
    "olmo3": Graphs(Graph(ARCH.OLMO2, square=True, own_head=True, windows=True), lacks=("attention_bias",)),
    "granite": Graphs(Graph(ARCH.GRANITE, neighbours=True, scaled=True, rope=WITH_FACTORS), DECI),
    "glm4": Graphs(Graph(ARCH.GLM4, joined={"ffn_up": GATE_UP}, rope=PLAIN, part_of_head=True)),
    "ministral3": Graphs(Graph(ARCH.MISTRAL3, neighbours=True)),
    "seed_oss": Graphs(Graph(ARCH.SEED_OSS), DECI, lacks=("attention_out_bias", "mlp_bias")),
    "qwen3_5_text": Graphs(
        Graph(ARCH.QWEN35, rope=frozenset({"default"}), part_of_head=True, norm_offset=1.0, linear_attention=True),
        lacks=("attention_bias",),
    ),
    "starcoder2": Graphs(Graph(ARCH.STARCODER2, square=True, activations=TANH_GELU), needs=("use_bias",)),
    "cohere": Graphs(
        Graph(ARCH.COMMAND_R, square=True, tied=True, rope=PLAIN, more=OF_COHERE),
        lacks=("attention_bias", "use_qk_norm"),
    ),
    "cohere2": Graphs(
        Graph(ARCH.COHERE2, square=True, tied=True, rope=PLAIN, windows=True, more=OF_COHERE), lacks=("attention_bias",)
    ),
    "gpt_neox": Graphs(
        Graph(
            ARCH.GPTNEOX,
            square=True,
            own_head=True,
            joined={"attn_qkv": QKV},
            activations=ANY_GELU,
            part_of_head=True,
            more={**LAYER_NORM, "use_parallel_residual": "use_parallel_residual"},
        ),
        needs=("attention_bias",),
    ),
}
