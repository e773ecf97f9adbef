"""Timing the halves of a model's layers at a ladder of widths, on a model whose weights mean nothing."""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.console import track
from secateur.costs.measure import interpolated, never_falling
from secateur.costs.times import Place, WidthTimes
from secateur.costs.widths import Weights, bare_model, of_widths
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Part
from secateur.models.memory import now
from secateur.models.modes import cache_name
from secateur.models.widths import LayerWidths, count_parameters, layer_widths

CHANNEL_SHARES = (1 / 16, 1 / 4, 1 / 2, 3 / 4)
GROUP_COUNTS = 4
TOKENS = 3  # decoded in a turn: few, so that many turns are not interrupted
FEWEST_ROUNDS, MOST_ROUNDS = 7, 60
TURNS_SECONDS = 40  # after which no further round begins
MOST_BYTES = 1.2e9  # of the timed layers' weights; of larger models fewer layers are timed
FEWEST_LAYERS = 8
PREFILL_TOKENS = 512  # at once

Key = tuple[Part, int] | str  # a half at a number of units; "uncut", "half as deep"
Decoders = Mapping[Key, Callable[[int], float]]


@dataclass(frozen=True)
class Ladder:
    """The models that are timed.

    Attributes:
        bare: the uncut one, without weights; of a large model the first layers.
        layers: how many layers the model has that is asked about.
        widths: of each timed model, layer by layer.
        absent: of the parts that a layer may go without, how many layers do where the part is absent.
    """

    bare: PreTrainedModel
    layers: int
    widths: Mapping[Key, Sequence[LayerWidths]]
    absent: Mapping[Part, int]


def ladder_of(
    model: PreTrainedModel, bytes_of_weight: float, without_halves: bool = True, most_bytes: float = MOST_BYTES
) -> Ladder:
    """The models to time for one.

    Args:
        model: of whose config they are; its weights do not matter.
        bytes_of_weight: of the timed models.
        without_halves: whether the engine runs layers that lack a half, where the family's may.
        most_bytes: of the timed layers.
    """
    whole = bare_model(model.config)
    layers = len(adapter_of(whole).layers(whole))
    per_layer = count_parameters(adapter_of(whole).layers(whole)) / layers
    timed = min(layers, max(FEWEST_LAYERS, int(most_bytes / (per_layer * bytes_of_weight))))
    bare = whole if timed == layers else bare_model(model.config, timed)
    adapter, full = adapter_of(bare), layer_widths(bare)
    halves = {part: [adapter.half(layer, part) for layer in adapter.layers(bare)] for part in PARTS}
    widths: dict[Key, Sequence[LayerWidths]] = {"uncut": full}
    absent: dict[Part, int] = {}
    for part, row in halves.items():
        # Below the narrowest layer's width, so that each narrows all of them.
        for units in _steps(part, min((half.units for half in row if half.names.divisible), default=0)):
            widths[part, units] = [
                _narrowed(width, part, units) if half.names.divisible else width
                for width, half in zip(full, row, strict=True)
            ]
        leaving = [half.names.may_leave and half.names.divisible for half in row]
        leaving[leaving.index(True) if True in leaving else 0] = False  # the model keeps one of each
        if without_halves and any(leaving):
            absent[part] = sum(leaving)
            widths[part, 0] = [
                _narrowed(width, part, 0) if leaves else width for width, leaves in zip(full, leaving, strict=True)
            ]
    if len(absent) < len(PARTS) and timed < layers:  # what is left beside layers is not known otherwise
        widths["half as deep"] = full[: len(full) // 2]
    return Ladder(bare, layers, widths, absent)


def _steps(part: Part, most: int) -> list[int]:
    """Widths below the uncut one: about five of an MLP, up to four of an attention."""
    if part == "attention":
        return sorted({max(1, round(most * step / GROUP_COUNTS)) for step in range(1, GROUP_COUNTS)} - {most, 0})
    multiple = next(multiple for multiple in (32, 8, 1) if most >= 32 * multiple or multiple == 1)
    return sorted({max(multiple, round(most * share / multiple) * multiple) for share in CHANNEL_SHARES} - {most, 0})


def _narrowed(width: LayerWidths, part: Part, units: int) -> LayerWidths:
    if part == "mlp":
        return replace(width, intermediate_size=min(units, width.intermediate_size))
    if not width.num_key_value_heads:
        return width
    groups, each = min(units, width.num_key_value_heads), width.num_attention_heads // width.num_key_value_heads
    return replace(width, num_attention_heads=groups * each, num_key_value_heads=groups)


def time_widths(ladder: Ladder, place: Place, decoders: AbstractContextManager[Decoders]) -> WidthTimes:
    """Time the models of a ladder in turns and take what their halves need apart.

    T = fixed + layers · (attention + mlp): what a narrower model takes less, its narrower halves do.

    Args:
        ladder: the models.
        place: where they run.
        decoders: for each model what decodes so many tokens and gives the seconds of one.
    """
    begun = time.perf_counter()
    turns: dict[Key, list[float]] = {key: [] for key in ladder.widths}
    with decoders as ready:
        for decode in ready.values():
            decode(1)  # the first call is slower
        deadline = time.perf_counter() + TURNS_SECONDS
        for number in track(range(MOST_ROUNDS), "Timing widths"):
            if number >= FEWEST_ROUNDS and time.perf_counter() > deadline:
                break
            for key, decode in ready.items():
                turns[key].append(1000 * decode(TOKENS))
    times, spread = settled(turns)
    return taken_apart(ladder, place, times, spread, time.perf_counter() - begun)


def settled(turns: Mapping[Key, Sequence[float]]) -> tuple[dict[Key, float], float]:
    """One time for each model out of its turns, the lower quartile, and by how much the median is above it, as a share.

    Other programs make some turns longer and none shorter.
    """
    quarters = {key: statistics.quantiles(row, n=4, method="inclusive") for key, row in turns.items()}
    spread = statistics.mean(median / low - 1 for low, median, _ in quarters.values())
    return {key: low for key, (low, _, _) in quarters.items()}, spread


def taken_apart(ladder: Ladder, place: Place, times: Mapping[Key, float], spread: float, seconds: float) -> WidthTimes:
    """Milliseconds of each half by its width, and of the rest.

    Args:
        ladder: the models.
        place: where they ran.
        times: milliseconds of each for a token.
        spread: of the turns.
        seconds: what it took.
    """
    adapter, timed = adapter_of(ladder.bare), len(layer_widths(ladder.bare))
    uncut = times["uncut"]
    curves: dict[Part, list[tuple[int, float]]] = {}
    of_halves, found = 0.0, {}
    for part in PARTS:
        halves = [adapter.half(layer, part) for layer in adapter.layers(ladder.bare)]
        cut = [half for half in halves if half.names.divisible]
        if not cut:
            curves[part] = []
            continue
        most = round(statistics.mean(half.units for half in cut))
        widths = sorted(key[1] for key in times if isinstance(key, tuple) and key[0] == part)
        less = {
            units: (times[part, units] - uncut) / (ladder.absent[part] if units == 0 else len(cut)) for units in widths
        }
        found[part] = {**less, most: 0.0}
        lowest = never_falling(list(found[part].values()))
        curves[part] = [(units, value - lowest[0]) for units, value in zip(found[part], lowest, strict=True)]
        curve = tuple((float(units), value) for units, value in curves[part])
        of_halves += sum(interpolated(curve, half.units) for half in cut)
    deeper = ladder.layers / timed
    if "half as deep" in times:
        rest = max(0.0, 2 * times["half as deep"] - uncut)  # of layers none
        fixed = rest + deeper * max(0.0, uncut - rest - of_halves)
    else:
        fixed = max(0.0, uncut - of_halves)
    return WidthTimes(
        place=place,
        layers=timed,
        fixed=fixed,
        attention=curves["attention"],
        mlp=curves["mlp"],
        spread=spread,
        seconds=seconds,
    )


class TransformersDecoders(AbstractContextManager[Decoders]):
    """The models of a ladder in Transformers, all of the same weights.

    Args:
        bare: the models, without weights.
        dtype: number format.
        device: where they run.
        context: tokens in the cache.
    """

    def __init__(
        self, bare: Mapping[Key, PreTrainedModel], dtype: torch.dtype, device: torch.device, context: int
    ) -> None:
        self.bare, self.weights, self.context, self.device = bare, Weights(dtype, device), context, device
        self.caches: dict[tuple[int, ...], Any] = {}

    def __enter__(self) -> Decoders:
        return {key: self._decoder(self.weights.fill(bare)) for key, bare in self.bare.items()}

    def __exit__(self, *_: object) -> None:
        self.caches.clear()
        self.weights.pools.clear()

    def _decoder(self, model: PreTrainedModel) -> Callable[[int], float]:
        name, cache = cache_name(model), self._cache(model)
        token = torch.zeros((1, 1), dtype=torch.long, device=self.device)

        def decode(tokens: int) -> float:
            with torch.inference_mode():
                own = copy.deepcopy(cache)
                began = now(model)
                for _ in range(tokens):
                    output = model(input_ids=token, **{name: own}, use_cache=True, logits_to_keep=1)
                    own = output[name]
                return (now(model) - began) / tokens

        return decode

    def _cache(self, model: PreTrainedModel) -> Any:
        """Keys and values of the context; models of the same attention share them."""
        key = tuple(width.num_key_value_heads for width in layer_widths(model))
        if key not in self.caches:
            name, cache = cache_name(model), None
            tokens: Tensor = torch.zeros((1, self.context), dtype=torch.long, device=self.device)
            with torch.inference_mode():
                for part in tokens.split(PREFILL_TOKENS, dim=1):
                    given: dict[str, Any] = {} if cache is None else {name: cache}
                    cache = model(input_ids=part, **given, use_cache=True, logits_to_keep=1)[name]
            self.caches[key] = cache
        return self.caches[key]


def models_of(ladder: Ladder) -> Iterator[tuple[Key, PreTrainedModel]]:
    """Each model of a ladder, without weights."""
    for key, widths in ladder.widths.items():
        if key == "half as deep":
            yield key, bare_model(ladder.bare.config, len(widths))
        else:
            yield key, of_widths(ladder.bare, widths)
