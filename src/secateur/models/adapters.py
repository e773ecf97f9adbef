"""Where each family of decoder models keeps its parts. No other module of secateur names a module path."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, cast

from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from secateur.errors import ModelError
from secateur.models import modeling_secateur as uneven
from secateur.models.halves import PARTS, Half, HalfNames, Part, Rows
from secateur.models.json_file import one_line
from secateur.models.table_check import check_table
from secateur.models.unsupported import obstacle

logger = logging.getLogger(__name__)

ENTRY_POINTS = "secateur.families"


@dataclass(frozen=True)
class Adapter:
    """A family of decoder models: where its parts are, by the names of attributes.

    Attributes:
        model_type: of its config.
        halves: what its layers are made of, in the order of use. Where layers differ (full and linear attention), all
            kinds stand here, and a layer has those whose mixer it has.
        body_name: of the model: the decoder without its head.
        layers_name: of the body.
        final_norm_name: of the body: the norm between the last layer and the head.
        rotary_name: of the body: what makes the rotary positions, if they are made there.
        embedding_multiplier: of the config: the factor of the embeddings.
        logits_divisor: of the config: what logits are divided by.
        logits_multiplier: of the config: what they are multiplied by.
        logits_softcap: of the config: c, where logits z become c tanh(z / c).
        partial_rotary: whether its code can rotate a part of each head.
        rope_by_layer_type: whether its rotary settings may differ between kinds of layers.
        end: what a layer makes of the residual stream after its last half, given that and the layer's arguments.
        of_tokens: given the body, tokens (batch, seq) and the number of a layer: what the layer is given of the tokens
            beside their embeddings, by the names of its arguments.
        refused: of the config: what no half describes where it is on, and what is said of it.
    """

    model_type: str
    halves: tuple[HalfNames, ...]
    body_name: str = "model"
    layers_name: str = "layers"
    final_norm_name: str = "norm"
    rotary_name: str | None = "rotary_emb"
    embedding_multiplier: str = "embedding_multiplier"
    logits_divisor: str = "logits_scaling"
    logits_multiplier: str = "logit_scale"
    logits_softcap: str = "final_logit_softcapping"
    partial_rotary: bool = False
    rope_by_layer_type: bool = False
    end: Callable[[nn.Module, Tensor, Mapping[str, Any]], Tensor] | None = None
    of_tokens: Callable[[nn.Module, Tensor, int], dict[str, Tensor]] | None = None
    refused: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        both = set(self.projection_names("attention")) & set(self.projection_names("mlp"))
        if both:
            raise ModelError(
                f"the attention and the MLP of {self.model_type} both have a projection {min(both)}, and projections "
                "go by their names; give them names of their own"
            )

    @cached_property
    def stock_config(self) -> type[PreTrainedConfig]:
        """Transformers' config class of the family. Raises `ModelError` where this release has none."""
        try:
            return cast(type[PreTrainedConfig], CONFIG_MAPPING[self.model_type])
        except KeyError as error:
            raise ModelError(
                f"the Transformers installed here has no '{self.model_type}'; install a newer release"
            ) from error

    @property
    def stock_model(self) -> type[PreTrainedModel]:
        return cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[self.stock_config])

    @property
    def stock_body(self) -> type[PreTrainedModel]:
        return cast(type[PreTrainedModel], MODEL_MAPPING[self.stock_config])

    @property
    def by_layer(self) -> tuple[str, ...]:
        """What else of its config than widths the family's own code reads layer by layer."""
        return uneven.OWN_BY_LAYER.get(self.model_type, ())

    @property
    def uneven_type(self) -> str:
        """The `model_type` of the family's models whose layers have widths of their own."""
        return uneven.PREFIX + self.model_type

    @cached_property
    def _uneven_classes(self) -> Any:
        return uneven.uneven_classes(self.stock_config)  # type: ignore[arg-type]

    @property
    def uneven_config(self) -> type[PreTrainedConfig]:
        return cast(type[PreTrainedConfig], self._uneven_classes.config)

    @property
    def uneven_model(self) -> type[PreTrainedModel]:
        return cast(type[PreTrainedModel], self._uneven_classes.causal)

    @property
    def uneven_body(self) -> type[PreTrainedModel]:
        return cast(type[PreTrainedModel], self._uneven_classes.body)

    def body(self, model: PreTrainedModel) -> nn.Module:
        """The decoder without its head."""
        return cast(nn.Module, attrgetter(self.body_name)(model))

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        return cast(nn.ModuleList, attrgetter(self.layers_name)(self.body(model)))

    def final_norm(self, model: PreTrainedModel) -> nn.Module:
        """The norm between the last layer and the head."""
        return cast(nn.Module, attrgetter(self.final_norm_name)(self.body(model)))

    def rotary_positions(self, model: PreTrainedModel) -> Any:
        """What makes the rotary positions; None where the layers do it themselves."""
        return None if self.rotary_name is None else attrgetter(self.rotary_name)(self.body(model))

    def half(self, layer: nn.Module, part: Part) -> Half:
        """A layer's attention or MLP. Raises `ModelError` where the layer has none that is known."""
        for names in self.halves:
            if names.part == part and names.is_of(layer):
                return names.of(layer, self._norms_of_others[part])
        known = " or ".join(names.mixer for names in self.halves if names.part == part)
        raise ModelError(f"a layer of this {self.model_type} has no {known}: it is of another kind")

    def own_modules(self, names: HalfNames) -> tuple[str, ...]:
        """The names of what leaves a layer with a half."""
        return names.own_modules(self._norms_of_others[names.part])

    @cached_property
    def _norms_of_others(self) -> dict[Part, frozenset[str]]:
        """For each half the names of the norms that the other has."""
        return {
            part: frozenset(norm for names in self.halves if names.part != part for norm in names.norms)
            for part in PARTS
        }

    def projections(self, layer: nn.Module) -> dict[str, nn.Linear]:
        """All projections of a layer by name, in the order in which they are used; none of a half that is absent."""
        return {name: linear for part in PARTS for name, linear in self.half(layer, part).projections.items()}

    @property
    def has_linear_attention(self) -> bool:
        return any(names.part == "attention" and not names.softmax for names in self.halves)

    def projection_names(self, part: Part) -> tuple[str, ...]:
        """The names of the projections of a half, of whatever kind it is."""
        named = [name for names in self.halves if names.part == part for name in (*names.inputs, names.output)]
        return tuple(dict.fromkeys(named))

    def projections_with(self, rows: Rows) -> tuple[str, ...]:
        """The names of the input projections that have such rows, gated or not."""
        named = [name for names in self.halves for name, blocks in names.inputs.items() if rows in _plain(blocks)]
        return tuple(dict.fromkeys(named))

    def embed(self, model: PreTrainedModel, tokens: Tensor) -> Tensor:
        """The residual stream before the first layer, (batch, seq, hidden_size)."""
        embedded = cast(Tensor, model.get_input_embeddings()(tokens))
        multiplier = getattr(model.config, self.embedding_multiplier, None)
        return embedded if multiplier is None else embedded * multiplier


def _plain(blocks: Iterable[Rows]) -> set[Rows]:
    """What rows are in blocks, whatever stands between them."""
    several: dict[Rows, tuple[Rows, ...]] = {"gated_query": ("query",), "query_key_value": ("query", "key", "value")}
    return {plain for rows in blocks for plain in several.get(rows, (rows,))}


@dataclass(frozen=True)
class Head:
    """What makes logits of the last hidden states.

    Attributes:
        linear: the output embeddings.
        divisor: of the logits.
        softcap: c, where logits z become c tanh(z / c); None without.
    """

    linear: nn.Linear
    divisor: float = 1.0
    softcap: float | None = None

    @property
    def weight(self) -> Tensor:
        return self.linear.weight

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits, (..., vocabulary), of hidden states (..., hidden_size)."""
        logits = cast(Tensor, self.linear(hidden))
        if self.divisor != 1:
            logits = logits / self.divisor
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()


_registered: dict[str, Adapter] = {}
_unchecked: set[str] = set()  # families from outside that have not been asked for yet
_failed: list[str] = []  # what is wrong with entry points that could not be loaded


def register(adapter: Adapter) -> None:
    """Make a family known, in place of one of the same `model_type`.

    Its config and its models are those that Transformers' Auto classes give for the type. A package may name its
    adapter as an entry point of the group `secateur.families` instead, and is then asked when it is needed. What the
    adapter says is compared with a small model of these classes when the family is first used.

    Raises:
        ModelError: it is no adapter, or has no `model_type`.
    """
    if not isinstance(adapter, Adapter) or not isinstance(adapter.model_type, str) or not adapter.model_type:
        raise ModelError("what is registered as a family is no secateur.models.Adapter with a model_type")
    if adapter.model_type.startswith(uneven.PREFIX):
        raise ModelError(f"the family {adapter.model_type} cannot be registered: {uneven.PREFIX}… are secateur's own")
    _unchecked.add(adapter.model_type)
    enter(adapter)


def enter(adapter: Adapter) -> None:
    """Make a family known whose adapter needs no check."""
    _registered[adapter.model_type] = adapter
    if adapter.model_type in CONFIG_MAPPING:
        AutoConfig.register(adapter.uneven_type, adapter.uneven_config, exist_ok=True)
        AutoModel.register(adapter.uneven_config, adapter.uneven_body, exist_ok=True)
        AutoModelForCausalLM.register(adapter.uneven_config, adapter.uneven_model, exist_ok=True)


def _adapters() -> dict[str, Adapter]:
    """All families by their `model_type`."""
    _load_entry_points()
    return _registered


@cache
def _load_entry_points() -> None:
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            found = entry.load()
            for adapter in found if isinstance(found, (list, tuple)) else [found]:
                register(adapter)
        except Exception as error:  # noqa: BLE001 another package's code; the other families stay
            _failed.append(f"the entry point {entry.name} of {ENTRY_POINTS} cannot be used: {one_line(error)}")
            logger.warning("A family is left out: %s", _failed[-1])


def supported_model_types() -> list[str]:
    return list(_adapters())


def adapter_for(model_type: str, content: Mapping[str, Any] | None = None) -> Adapter:
    """The adapter of a family, by the `model_type` of a stock or an uneven config.

    Args:
        model_type: of the config.
        content: its `config.json`, for what an error says.

    Raises:
        ModelError: no adapter knows this family, and it says what stands against it; or the adapter, of another
            package, says something else than the family's classes do.
    """
    adapter = _adapters().get(model_type.removeprefix(uneven.PREFIX))
    if adapter is None:
        left_out = "".join(f"; {failure}" for failure in _failed)
        raise ModelError(
            f"the architecture '{model_type}' is not supported: {obstacle(model_type, content)}{left_out}; supported "
            f"are {', '.join(supported_model_types())}"
        )
    if adapter.model_type in _unchecked:
        _unchecked.discard(adapter.model_type)
        try:
            check_table(adapter)
        except ModelError:
            _unchecked.add(adapter.model_type)
            raise
    return adapter


def is_uneven_type(model_type: str) -> bool:
    """Whether configs of this type have widths that differ from layer to layer. Errors as `adapter_for`."""
    adapter_for(model_type)
    return model_type.startswith(uneven.PREFIX)


def adapter_of(model: PreTrainedModel) -> Adapter:
    """The adapter of a loaded model. Raises `ModelError` for an unsupported family."""
    return adapter_for(model.config.model_type)


def head_of(model: PreTrainedModel) -> Head:
    """What makes logits of a model's last hidden states."""
    return head_by(adapter_of(model), model)


def head_by(adapter: Adapter, model: PreTrainedModel) -> Head:
    """What makes logits, as an adapter has it."""
    config = model.config
    multiplier = float(getattr(config, adapter.logits_multiplier, None) or 1)
    return Head(
        cast(nn.Linear, model.get_output_embeddings()),
        divisor=float(getattr(config, adapter.logits_divisor, None) or 1) / multiplier,
        softcap=getattr(config, adapter.logits_softcap, None),
    )
