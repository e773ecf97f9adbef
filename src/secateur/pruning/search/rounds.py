"""Where a cut hurts least: made again and again, each half's cost measured where the cut stands, and spread anew.

The objective is the KL divergence from the uncut model on calibration text that the cut was not fitted to. As in
Týr-the-Pruner (Li et al. 2025) and EvoPress (Sieberling et al. 2024) a width of a half that is tried is cut and
re-fitted once. Unlike there, it is not tried by running the model with it: its effect is expanded to second order in
what the half adds to the residual stream, so that one pass forward and two back give the cost of all of them. What was
measured is averaged over the rounds, so that their steps become smaller.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.data import token_windows
from secateur.errors import InputError
from secateur.models.calibration import Calibration, calibrate
from secateur.models.checks import require_finite, warn_of_long_windows
from secateur.models.masks import zero_masks
from secateur.models.memory import peak_memory, timed
from secateur.models.options import configured
from secateur.models.widths import count_parameters, head_dim_of
from secateur.pruning.allocation import Ladder, build_ladders, take_by_price
from secateur.pruning.cutting import Removed, obs_scores, sensitivity_of_layers, spread
from secateur.pruning.plan import PruningPlan, plan_layers
from secateur.pruning.search.candidates import Candidates, HalfName, cut_with_candidates, uncut_again
from secateur.pruning.search.config import SearchConfig
from secateur.pruning.search.measuring import Measured, final_states, measure
from secateur.pruning.units import PARTS, part_shapes

logger = logging.getLogger(__name__)

LEAST_MEASURED = 4
FARTHEST = math.log(30)
LEAST = 1e-12  # of what a unit of squared error costs, in nats per token


@dataclass
class Round:
    """One cut that was made and measured.

    Attributes:
        divergence: KL divergence from the uncut model, in nats per token, on text that the cut was not fitted to.
        taken: for each layer, the steps taken by its attention and its MLP; None where it must not be cut.
        scales: for each layer and half, the logarithm of what a unit of its squared error costs, averaged over the
            uncut model's sensitivity and the rounds so far.
        following: as `taken`, for the next round.
        attention_share: share of the removed parameters that attention bears.
        seconds: what the round took.
    """

    divergence: float
    taken: list[list[int | None]]
    scales: list[list[float | None]]
    following: list[list[int | None]]
    attention_share: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        plan: the best cut, for `prune --plan`.
        rounds: all cuts made, the first of them that of `prune`'s own allocation.
        seconds: time by phase.
        peak_memory_bytes: the most memory used: of the GPU, or of the process on a CPU.
    """

    plan: PruningPlan
    rounds: list[Round]
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    @property
    def best(self) -> int:
        """Which round the plan is of, from 0."""
        return _best(self.rounds)

    def to_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "rounds": [done.to_dict() for done in self.rounds],
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def search(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: SearchConfig | None = None,
    *,
    done: Sequence[Round] = (),
    keep: Callable[[list[Round]], None] | None = None,
    **options: Any,
) -> SearchResult:
    """Find how a cut is best spread: between attention and MLP, over the layers, and which layers stay whole.

    The model comes out as it went in.

    Args:
        model: a causal language model of a supported family.
        tokenizer: its tokenizer.
        config: what may be cut, and how long to search.
        done: rounds of an earlier try with the same settings, to go on from.
        keep: called after each round with all rounds so far, for going on after a stop.
        options: fields of `SearchConfig`, instead of `config` or over it.

    Raises:
        InputError: the options do not fit the model, or the ratio is more than it can lose.
        DataError: the calibration text cannot be used.
        ModelError: the model's family is not supported, or a weight is NaN or infinite.
    """
    config = configured(SearchConfig, config, options)
    require_finite(model, "the model")
    if zero_masks(model):
        raise InputError("the model has zeros, which the re-fit would fill; search and prune first, then run sparsify")
    warn_of_long_windows(model, config.seqlen)
    config.cut_layers(len(part_shapes(model)))
    rounds, seconds = list(done), dict[str, float]()
    with peak_memory(model) as memory:
        with timed(seconds, "calibration text"):
            calibration = calibrate(model, tokenizer, config)
        with timed(seconds, "rounds"):
            fitted, held_out = _parts(tokenizer, calibration, config)
            _search(model, fitted, held_out, config, rounds, keep)
        with timed(seconds, "units of the best"):
            removed = _units(model, calibration.windows, config, rounds[_best(rounds)])
    plan = _plan(model, config, calibration, removed)
    return SearchResult(plan, rounds, seconds, memory.bytes)


def _search(
    model: PreTrainedModel,
    fitted: Tensor,
    held_out: Tensor,
    config: SearchConfig,
    done: list[Round],
    keep: Callable[[list[Round]], None] | None,
) -> None:
    """Add rounds to those that are done, until there are enough or they bring nothing more."""
    following, scales = _where_to_go_on(done) if done else _first(model, fitted, config)
    # Two passes back through what a pass forward has left in memory.
    batch_size = max(1, config.batch_size // 4)
    reference = final_states(model, held_out, batch_size)
    while len(done) < config.rounds and len(done) - 1 - _best(done) < config.patience:
        seconds: dict[str, float] = {}
        with timed(seconds, "round"):
            with uncut_again(model):
                cut = cut_with_candidates(model, following, fitted, config.batch_size, config.damping)
                measured = measure(model, cut, held_out, reference, batch_size, config.seed + len(done))
            scales = _scales(cut, measured, scales, len(done))
            ladders = [half.ladder for half in cut.values()]
            taken, share = {name: half.ladder.taken for name, half in cut.items()}, _attention_share(ladders)
            following = _spread_anew(model, cut, scales, config)
        count = len(part_shapes(model))
        done.append(
            Round(
                divergence=measured.divergence,
                taken=_by_layer(taken, count),
                scales=_by_layer(scales, count),
                following=_by_layer(following, count),
                attention_share=share,
                seconds=seconds["round"],
            )
        )
        logger.info(
            "Round %d: KL divergence %.4f, attention bears %.0f%% of the cut, %.0f s",
            len(done),
            measured.divergence,
            100 * share,
            seconds["round"],
        )
        if keep is not None:
            keep(done)


def _parts(tokenizer: PreTrainedTokenizerBase, calibration: Calibration, config: SearchConfig) -> tuple[Tensor, Tensor]:
    """Windows to fit the search's cuts to, half of the calibration's, and windows of the corpus to measure them on.

    Where the corpus has none beside those of the calibration, every other one of them is held out.
    """
    text = calibration.windows[: len(calibration.windows) - calibration.own]
    drawn = {tuple(window) for window in text.tolist()}
    every = token_windows(tokenizer, calibration.corpus, config.seqlen)
    others = every[[tuple(window) not in drawn for window in every.tolist()]]
    if len(others) >= min(LEAST_MEASURED, len(text)):
        return calibration.windows[::2], spread(others, config.measured)
    if len(text) == 1:
        return calibration.windows, text
    return torch.cat([text[::2], calibration.windows[len(text) :]]), spread(text[1::2], config.measured)


def _first(
    model: PreTrainedModel, windows: Tensor, config: SearchConfig
) -> tuple[dict[HalfName, int], dict[HalfName, float]]:
    """The steps that `prune` takes by itself, and the scales by which it does."""
    sensitivity = sensitivity_of_layers(model, windows, config.batch_size)
    scores = obs_scores(model, windows, config.batch_size, config.damping, sensitivity)
    ladders = build_ladders(model, config, scores)
    take_by_price(model, ladders, config)
    names = [(ladder.layer, ladder.part) for ladder in ladders]
    taken = [ladder.taken for ladder in ladders]
    scales = [math.log(max(sensitivity[layer][part], LEAST)) for layer, part in names]
    return dict(zip(names, taken, strict=True)), dict(zip(names, scales, strict=True))


def _where_to_go_on(done: Sequence[Round]) -> tuple[dict[HalfName, int], dict[HalfName, float]]:
    return _named(done[-1].following), _named(done[-1].scales)


def _scales(
    cut: Mapping[HalfName, Candidates], measured: Measured, before: Mapping[HalfName, float], rounds: int
) -> dict[HalfName, float]:
    """The mean over the uncut model's sensitivity, the rounds before and this one.

    What a half would win back if it were wider says little: the layers behind it were fitted to it as it is. So only
    the cost of more error counts, and a half that has nothing left to lose keeps its scale.
    """
    scales = dict(before)
    for name, change in measured.changes.items():
        ladder, (steps, _) = cut[name].ladder, cut[name].narrower or (0, None)
        error = sum(ladder.costs[ladder.taken : steps])
        if error > 0:
            now = math.log(max(change / error, LEAST))
            step = min(max(now - before[name], -FARTHEST), FARTHEST)
            scales[name] = before[name] + step / (rounds + 2)
    return scales


def _spread_anew(
    model: PreTrainedModel, cut: Mapping[HalfName, Candidates], scales: Mapping[HalfName, float], config: SearchConfig
) -> dict[HalfName, int]:
    """The steps to take by the ladders' errors, each at its half's own scale."""
    ladders = [
        Ladder(old.layer, old.part, old.shape, old.units, [math.exp(scales[name]) * cost for cost in old.costs])
        for name, old in ((name, half.ladder) for name, half in cut.items())
    ]
    take_by_price(model, ladders, config)
    return {(ladder.layer, ladder.part): ladder.taken for ladder in ladders}


def _units(model: PreTrainedModel, windows: Tensor, config: SearchConfig, best: Round) -> Removed:
    """The units that leave in the best round, chosen on all of the text."""
    removed: Removed = [{part: [] for part in PARTS} for _ in part_shapes(model)]
    with uncut_again(model):
        cut = cut_with_candidates(model, _named(best.taken), windows, config.batch_size, config.damping, narrower=False)
    for (layer, part), half in cut.items():
        removed[layer][part] = sorted(half.order[: half.ladder.removed_units()].tolist())
    return removed


def _plan(model: PreTrainedModel, config: SearchConfig, calibration: Calibration, removed: Removed) -> PruningPlan:
    shapes = part_shapes(model)
    gone = sum(
        len(units) * shapes[layer][part].unit_parameters
        for layer, parts in enumerate(removed)
        for part, units in parts.items()
    )
    losing = [layer for layer, parts in enumerate(removed) if any(parts.values())]
    head_dim, before = head_dim_of(model), count_parameters(model)
    return PruningPlan(
        ratio=config.ratio,
        parameters_before=before,
        parameters_after=before - gone,
        head_dim=head_dim,
        query_heads_per_group=shapes[0]["attention"].block_size // head_dim,
        layers=plan_layers(shapes, head_dim, removed, losing, None),
        settings=config.model_dump(),
        calibration=calibration.description,
        calibration_windows=len(calibration.windows),
        calibration_source=calibration.corpus.source,
    )


def _best(rounds: Sequence[Round]) -> int:
    return min(range(len(rounds)), key=lambda number: rounds[number].divergence, default=0)


def _attention_share(ladders: Sequence[Ladder]) -> float:
    total = sum(ladder.removed_parameters() for ladder in ladders)
    attention = sum(ladder.removed_parameters() for ladder in ladders if ladder.part == "attention")
    return attention / total if total else 0.0


def _by_layer(values: Mapping[HalfName, Any], count: int) -> list[list[Any]]:
    return [[values.get((layer, part)) for part in PARTS] for layer in range(count)]


def _named(table: Sequence[Sequence[Any]]) -> dict[HalfName, Any]:
    return {
        (layer, part): value
        for layer, row in enumerate(table)
        for part, value in zip(PARTS, row, strict=True)
        if value is not None
    }
