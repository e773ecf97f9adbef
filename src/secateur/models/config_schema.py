"""What the `config.json` of a supported family may say: types, ranges, and what has to fit what."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from secateur.models.json_file import shown
from secateur.models.widths import LayerWidths, widths_of

LARGEST = 10**7
MOST_LAYERS = 10_000
ROPE_KINDS = ("default", *ROPE_INIT_FUNCTIONS)
UNION_BRANCH = re.compile(r"int|list\[.*|constrained-int|function-.*")

Width = Annotated[int, Field(ge=1, le=LARGEST)]
HeadSize = Annotated[int, Field(ge=2, le=LARGEST, multiple_of=2)]  # halves are rotated
Widths = Annotated[list[Width], Field(min_length=1, max_length=MOST_LAYERS)]
Share = Annotated[float, Field(gt=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=1e6)]
Frequency = Annotated[float, Field(ge=1e-9, le=1e15)]
Length = Annotated[int, Field(ge=1, le=10**12)]
TokenId = Annotated[int, Field(ge=0, le=LARGEST)]
LayerType = Literal["full_attention", "sliding_attention", "linear_attention"]
NumberFormat = Literal["float64", "float32", "bfloat16", "float16"]


class _Strict(BaseModel):
    # Other keys are not read here: a bool is no number, a number in quotes is none, NaN is none.
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Rope(_Strict):
    """`rope_parameters`, or `rope_scaling` of older files."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Frequency | None = None
    factor: Annotated[float, Field(ge=1e-9, le=1e31)] | None = None  # 1e30 keeps what it divides from turning
    original_max_position_embeddings: Length | None = None
    attention_factor: Frequency | None = None
    beta_fast: Frequency | None = None
    beta_slow: Frequency | None = None
    mscale: Annotated[float, Field(ge=0, le=1e6)] | None = None
    mscale_all_dim: Annotated[float, Field(ge=0, le=1e6)] | None = None
    low_freq_factor: Frequency | None = None
    high_freq_factor: Frequency | None = None
    short_factor: list[Frequency] | None = None
    long_factor: list[Frequency] | None = None
    truncate: bool | None = None
    partial_rotary_factor: Share | None = None

    @property
    def kind(self) -> str:
        return next((name for name in (self.rope_type, self.type) if name is not None), "default")

    @model_validator(mode="before")
    @classmethod
    def _one_for_all_layers(cls, value: object) -> object:
        nested = [name for name, part in value.items() if isinstance(part, dict)] if isinstance(value, dict) else []
        if nested:
            raise ValueError(f"settings by kind of layer ({shown(nested[0])}) are not read by this family's code")
        return value

    @model_validator(mode="after")
    def _hangs_together(self) -> "Rope":
        if self.kind not in ("default", *ROPE_INIT_FUNCTIONS):
            raise ValueError(
                f"rope_type '{shown(self.kind)}' is unknown; known are {', '.join(('default', *ROPE_INIT_FUNCTIONS))}"
            )
        needed = {
            "linear": ("factor",),
            "dynamic": ("factor",),
            "yarn": ("factor",),
            "longrope": ("short_factor", "long_factor"),
            "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        }
        absent = [name for name in needed.get(self.kind, ()) if getattr(self, name) is None]
        if absent:
            raise ValueError(f"rope_type {self.kind} needs {', '.join(absent)}")
        if self.low_freq_factor and self.high_freq_factor and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(f"high_freq_factor {self.high_freq_factor:g} is not above low_freq_factor")
        return self


class LayerOverrides(_Strict):
    """What `per_layer_config` says of one layer: where it differs from the numbers for all."""

    num_attention_heads: Width | None = None
    num_key_value_heads: Width | None = None
    intermediate_size: Width | None = None
    skip: list[Literal["attention", "mlp"]] | None = None
    head_dim: HeadSize | None = None  # of families whose own code reads it layer by layer


WIDTHS = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


class DeclaredConfig(_Strict):
    """What a `config.json` says of a model's shape and of how it computes."""

    model_type: str
    vocab_size: Width
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    num_attention_heads: Width
    num_key_value_heads: Width | None = None
    head_dim: HeadSize | None = None
    global_head_dim: HeadSize | None = None
    num_global_key_value_heads: Width | None = None
    hidden_act: str | None = None
    hidden_activation: str | None = None
    max_position_embeddings: Length | None = None
    initializer_range: Annotated[float, Field(ge=0)] | None = None
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] | None = None
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] | None = None
    norm_epsilon: Annotated[float, Field(gt=0, lt=1)] | None = None
    use_cache: bool | None = None
    tie_word_embeddings: bool | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    use_bias: bool | None = None
    use_qk_norm: bool | None = None
    use_parallel_residual: bool | None = None
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    pretraining_tp: Width | None = None
    rope_theta: Frequency | None = None
    rope_parameters: Rope | None = None
    rope_scaling: Rope | None = None
    rope_by_layer_type: dict[LayerType, Rope | None] | None = None  # `rope_parameters` of some families
    partial_rotary_factor: Share | None = None
    rotary_pct: Share | None = None  # GPT-NeoX's name of it, and of rope_theta
    rotary_emb_base: Frequency | None = None
    no_rope_layers: list[Literal[0, 1]] | None = None
    original_max_position_embeddings: Length | None = None
    use_sliding_window: bool | None = None
    sliding_window: Length | None = None
    max_window_layers: Annotated[int, Field(ge=0, le=10**9)] | None = None
    layer_types: list[LayerType] | None = None
    # Of all tokens it is a model of embeddings, not of language; of those of images nothing is read here.
    use_bidirectional_attention: Literal[False, "vision"] | None = None
    num_kv_shared_layers: Annotated[int, Field(ge=0, le=MOST_LAYERS)] | None = None
    use_double_wide_mlp: bool | None = None
    attention_k_eq_v: bool | None = None
    hidden_size_per_layer_input: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    vocab_size_per_layer_input: Width | None = None
    embedding_multiplier: Factor | None = None
    logits_scaling: Factor | None = None
    logit_scale: Factor | None = None
    residual_multiplier: Factor | None = None
    attention_multiplier: Factor | None = None
    query_pre_attn_scalar: Factor | None = None
    attn_logit_softcapping: Factor | None = None
    final_logit_softcapping: Factor | None = None
    linear_conv_kernel_dim: Width | None = None
    linear_key_head_dim: Width | None = None
    linear_value_head_dim: Width | None = None
    linear_num_key_heads: Width | None = None
    linear_num_value_heads: Width | None = None
    pad_token_id: TokenId | None = None
    bos_token_id: TokenId | list[TokenId] | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    dtype: NumberFormat | None = None
    torch_dtype: NumberFormat | None = None
    skipped_modules: dict[Literal["attention", "mlp"], Annotated[list[str], Field(min_length=1)]] | None = None
    square_attention: Annotated[list[str], Field(min_length=3)] | None = None
    per_layer_config: Annotated[dict[str, LayerOverrides], Field(max_length=MOST_LAYERS)] | None = None
    # How directories said it before `per_layer_config`.
    num_attention_heads_per_layer: Widths | None = None
    num_key_value_heads_per_layer: Widths | None = None
    intermediate_size_per_layer: Widths | None = None
    architectures: list[str] | None = None
    auto_map: dict[str, Any] | None = None
    is_encoder_decoder: Literal[False] | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    id2label: dict[Any, Any] | None = None
    label2id: dict[str, Any] | None = None
    num_labels: Annotated[int, Field(ge=0, le=100_000)] | None = None

    @field_validator("rope_parameters", "rope_scaling", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == {} else value

    @field_validator("per_layer_config", mode="before")
    @classmethod
    def _widths_only(cls, value: object) -> object:
        for layer, overrides in value.items() if isinstance(value, dict) else ():
            if not re.fullmatch(r"[0-9]{1,9}", str(layer)):
                raise ValueError(f"{shown(layer)} is no number of a layer")
            for name in overrides if isinstance(overrides, dict) else ():
                if name not in LayerOverrides.model_fields:
                    read = ", ".join(LayerOverrides.model_fields)
                    raise ValueError(f"layer {layer} has {shown(name)}, and layers may differ in {read}")
        return value

    @field_validator("id2label")
    @classmethod
    def _numbered(cls, value: dict[Any, Any] | None) -> dict[Any, Any] | None:
        if not all(str(key).isdecimal() for key in value or ()):
            raise ValueError("its keys are numbers")
        return value

    @field_validator("hidden_act", "hidden_activation")
    @classmethod
    def _known_activation(cls, value: str | None) -> str | None:
        if value is not None and value not in ACT2FN:
            raise ValueError("no such activation is known")
        return value

    @property
    def stated_dtype(self) -> str | None:
        """The number format that it says its weights have."""
        return self.dtype or self.torch_dtype

    @property
    def ropes(self) -> dict[str, Rope]:
        """All rotary settings by the place where they stand."""
        by_type = {f"rope_parameters.{kind}": rope for kind, rope in (self.rope_by_layer_type or {}).items()}
        places = {"rope_parameters": self.rope_parameters, "rope_scaling": self.rope_scaling, **by_type}
        return {name: rope for name, rope in places.items() if rope is not None}

    @property
    def rope(self) -> Rope | None:
        """The rotary settings that Transformers takes where both stand there."""
        return self.rope_scaling or self.rope_parameters

    @property
    def lists(self) -> dict[str, list[int]]:
        """The widths that the older layout lists layer by layer, by the list's name."""
        lists = {f"{name}_per_layer": getattr(self, f"{name}_per_layer") for name in WIDTHS}
        return {name: numbers for name, numbers in lists.items() if numbers is not None}

    def layers(self, num_key_value_heads: int) -> list[LayerWidths]:
        """The widths of every layer.

        Args:
            num_key_value_heads: of the layers for which nothing says how many.
        """
        named = {int(layer): overrides.model_dump() for layer, overrides in (self.per_layer_config or {}).items()}
        widths = []
        for index in range(self.num_hidden_layers):
            own = {name.removesuffix("_per_layer"): numbers[index] for name, numbers in self.lists.items()}
            own |= {name: width for name, width in named.get(index, {}).items() if width is not None}
            even = (self.num_attention_heads, num_key_value_heads, self.intermediate_size)
            widths.append(widths_of(SimpleNamespace(**dict(zip(WIDTHS, even, strict=True)) | own)))
        return widths

    @model_validator(mode="after")
    def _hangs_together(self) -> "DeclaredConfig":
        for complaint in self._complaints():
            raise ValueError(complaint)
        return self

    def _complaints(self) -> Iterator[str]:
        heads, groups, layers = self.num_attention_heads, self.num_key_value_heads, self.num_hidden_layers
        if self.head_dim is None and self.hidden_size % heads:
            hidden = self.hidden_size
            yield f"num_attention_heads {heads} does not divide hidden_size {hidden}, and there is no head_dim"
        elif self.model_type == "llama" and self.hidden_size % heads:
            yield f"num_attention_heads {heads} does not divide hidden_size {self.hidden_size}, as a llama's has to"
        if groups and heads % groups:
            yield f"num_key_value_heads {groups} does not divide num_attention_heads {heads}"
        for name in type(self).model_fields:
            values = getattr(self, name)
            if name.endswith("_per_layer") and values is not None and len(values) != layers:
                yield f"{name} has {len(values)} numbers for {layers} layers"
        for layer in map(int, self.per_layer_config or ()):
            if layer >= layers:
                yield f"per_layer_config speaks of layer {layer}, and num_hidden_layers is {layers}"
        if self.per_layer_config and self.lists:
            yield f"per_layer_config and {next(iter(self.lists))} say the same thing twice"
        if len(set(map(int, self.per_layer_config or ()))) < len(self.per_layer_config or ()):
            yield "per_layer_config speaks of a layer twice"
        for index, overrides in (self.per_layer_config or {}).items():
            for half in overrides.skip or ():
                if half not in (self.skipped_modules or {}):
                    yield f"layer {index} skips its {half}, and skipped_modules does not name its modules"
        yield from self._complaints_of_layers()
        if self.layer_types is not None and len(self.layer_types) != layers:
            yield f"layer_types has {len(self.layer_types)} entries for num_hidden_layers {layers}"
        if self.layer_types is not None and "sliding_attention" in self.layer_types and not self.sliding_window:
            yield "layer_types asks for sliding_attention and there is no sliding_window"
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            yield f"pad_token_id {self.pad_token_id} is outside of the vocabulary of vocab_size {self.vocab_size}"
        for name, numbers in (("no_rope_layers", self.no_rope_layers),):
            if numbers is not None and len(numbers) != layers:
                yield f"{name} has {len(numbers)} entries for num_hidden_layers {layers}"
        if self.num_kv_shared_layers and self.num_kv_shared_layers >= layers:
            yield f"num_kv_shared_layers {self.num_kv_shared_layers} leaves none of {layers} layers keys of its own"
        if self.hidden_size_per_layer_input and (self.vocab_size_per_layer_input or LARGEST) < self.vocab_size:
            yield f"vocab_size_per_layer_input {self.vocab_size_per_layer_input} is below vocab_size {self.vocab_size}"
        for name, rope in self.ropes.items():
            yield from self._complaints_of_rope(name, rope)
        yield from self._complaints_of_base()

    def _complaints_of_layers(self) -> Iterator[str]:
        """What is wrong with the heads of single layers."""
        for index, layer in enumerate(self.layers(self.num_key_value_heads or self.num_attention_heads)):
            if layer.num_key_value_heads and layer.num_attention_heads % layer.num_key_value_heads:
                heads, groups = layer.num_attention_heads, layer.num_key_value_heads
                yield f"layer {index} has {heads} query heads for {groups} key/value heads"

    def _complaints_of_rope(self, name: str, rope: Rope) -> Iterator[str]:
        if rope.kind != "longrope":
            return
        rotated = rope.partial_rotary_factor or self.partial_rotary_factor or 1
        half = int((self.head_dim or self.hidden_size // self.num_attention_heads) * rotated) // 2
        for field in ("short_factor", "long_factor"):
            factors = getattr(rope, field)
            if factors is not None and len(factors) != half:
                yield f"{name}.{field} has {len(factors)} numbers for heads of {2 * half}"

    def _complaints_of_base(self) -> Iterator[str]:
        """The rotary base may stand in three places, of which programs read different ones."""
        places = {
            "rope_theta": self.rope_theta,
            "rope_parameters.rope_theta": self.rope_parameters and self.rope_parameters.rope_theta,
            "rope_scaling.rope_theta": self.rope_scaling and self.rope_scaling.rope_theta,
        }
        (first, base), *others = [place for place in places.items() if place[1] is not None] or [("", None)]
        if base is None and "rope_theta" in self.model_fields_set:
            yield "rope_theta is None: the rotary base is a number"
        for name, other in others:
            if other != base:
                yield f"{first} {base:g} and {name} {other:g} are two rotary bases"
        if self.rope_scaling and first == "rope_parameters.rope_theta" and not others:
            yield f"rope_scaling has no rope_theta, and would be read without that of {first}"

    def outside(self) -> list[str]:
        """Token ids of generation that no row of the embeddings belongs to, as `name id`."""
        found = []
        for name in ("bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            ids = value if isinstance(value, list) else [] if value is None else [value]
            found += [f"{name} {token}" for token in ids if token >= self.vocab_size]
        return found


def complaint(error: ValidationError) -> str:
    """The first thing that is wrong, with its field's name, on one line."""
    problems = error.errors()
    missing = [".".join(map(str, problem["loc"])) for problem in problems if problem["type"] == "missing"]
    if missing:
        return f"it lacks {', '.join(missing)}"
    problem = problems[0]
    message = str(problem["msg"]).removeprefix("Value error, ")
    # Of a field that may be one thing or another, pydantic adds which it tried.
    path = [str(part) for part in problem["loc"] if not UNION_BRANCH.fullmatch(str(part))]
    path = ["rope_parameters" if part == "rope_by_layer_type" else part for part in path]
    if not path:
        return message
    return f"{'.'.join(path)} is {shown(problem['input'])}: {message[0].lower()}{message[1:]}"
