"""Where a cut hurts least: made again and again, each half's cost measured where the cut stands, and spread anew.

The objective is the KL divergence from the uncut model on calibration text that the cut was not fitted to. As in
Týr-the-Pruner (Li et al. 2025) and EvoPress (Sieberling et al. 2024) a width of a half that is tried is cut and
re-fitted once. Unlike there, few are tried by running the model: the effect of the others is expanded to second order
in what the half adds to the residual stream, so that one pass forward and two back give the cost of all of them. What
was measured is averaged over the rounds, each on other text, and no half moves far in one round.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.calibration.moments import solvable
from secateur.calibration.sensitivity import Metrics
from secateur.calibration.windows import Calibration, calibrate
from secateur.costs.measure import Measure
from secateur.costs.reached import Reached
from secateur.errors import InputError
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.context import require_length
from secateur.models.halves import PARTS
from secateur.models.masks import zeros_to_keep
from secateur.models.memory import peak_memory, timed
from secateur.models.modes import in_eval_mode
from secateur.models.options import configured, takes_options
from secateur.models.rounded import refuse_rounded
from secateur.models.widths import count_parameters, head_dim_of
from secateur.pruning.allocation import take_by_price
from secateur.pruning.budget import require_met, require_room
from secateur.pruning.cutting import Removed
from secateur.pruning.ladders import Ladder, build_ladders, unpriced_ladders
from secateur.pruning.multiples import require_multiples
from secateur.pruning.plan import PruningPlan, plan_layers, warn_of_miss
from secateur.pruning.removals import with_measured_halves
from secateur.pruning.scoring import metrics_of_layers, obs_scores
from secateur.pruning.search.candidates import (
    HalfName,
    cut_with_candidates,
    narrowed,
    narrower_steps,
    uncut_again,
)
from secateur.pruning.search.config import SearchConfig
from secateur.pruning.search.divergence import Watched, divergence, expected_changes
from secateur.pruning.search.options import SearchOptions
from secateur.pruning.search.result import Round, SearchResult, best_of
from secateur.pruning.search.text import SearchText, half_of, search_text
from secateur.pruning.targets import keep_expected_losses, measure_of
from secateur.pruning.units import identity, log_what_stays, part_shapes, usual_attention

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)
Ladders = dict[HalfName, Ladder]

FARTHEST = math.log(30)
LEAST = 1e-3  # of what was expected
REACH = 8  # a half moves by an eighth of its steps in a round at most
MOST_TRIED = 4
BACKWARD = 4  # times as much memory as a pass forward alone


@takes_options(SearchConfig)
@in_eval_mode
def search(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: SearchConfig | None = None,
    *,
    done: Sequence[Round] = (),
    keep: Callable[[list[Round]], None] | None = None,
    **options: Unpack[SearchOptions],
) -> SearchResult:
    """Find how a cut is best spread: between attention and MLP, over the layers, and which layers stay whole.

    The model comes out as it went in.

    Args:
        model: a causal language model of a supported family.
        tokenizer: its tokenizer; None will do where the data is tokens.
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
    require_in_memory(model)
    require_finite(model, "the model")
    refuse_rounded(model, "search the model that they came from")
    if zeros_to_keep(model, config.zeros):
        raise InputError(
            "the model has zeros, which the re-fit would fill; search and prune first, then run sparsify, or pass "
            "--zeros fill"
        )
    require_length(model, config.seqlen)
    log_what_stays(model)
    head_dim_of(model)  # or it says what is in the way
    config.cut_layers(len(part_shapes(model)))
    require_multiples(config, part_shapes(model))
    measure = measure_of(model, tokenizer, config)
    require_room(model, config, measure)
    rounds, seconds = list(done), dict[str, float]()
    with peak_memory(model) as memory, solvable(config.damping):
        with timed(seconds, "calibration text"):
            calibration = calibrate(model, tokenizer, config)
        with timed(seconds, "rounds"):
            _search(model, search_text(tokenizer, calibration, config), config, rounds, keep, measure)
        with timed(seconds, "units of the best"):
            removed = _units(model, calibration.windows, config, rounds, measure)
    plan = _plan(model, config, calibration, removed, measure)
    warn_of_miss(plan)
    return SearchResult(plan, rounds, seconds, memory.bytes)


def check_rounds(
    model: PreTrainedModel, config: SearchConfig, rounds: Sequence[Round], measure: Measure | None = None
) -> None:
    """Raise `ValueError` where rounds are not of a search in this model with these settings."""
    layers = config.cut_layers(len(part_shapes(model)))
    cut = [(layer, part) for layer in layers for part in PARTS if config.cuts(part)]
    ladders = unpriced_ladders(model, config, cut, measure)
    for done in rounds:
        if len(done.taken) != len(part_shapes(model)) or not math.isfinite(done.divergence):
            raise ValueError("a round is not one of this model")
        for steps in (_named(done.taken), _named(done.following)):
            if steps.keys() != ladders.keys():
                raise ValueError("a round has not the halves that may be cut")
            if not all(0 <= count <= len(ladders[name].units) for name, count in steps.items()):
                raise ValueError("a round takes steps that there are not")
        scales = _named(done.scales)
        if scales.keys() != ladders.keys() or not all(map(math.isfinite, scales.values())):
            raise ValueError("a round has not a scale for each half")


def _search(
    model: PreTrainedModel,
    text: SearchText,
    config: SearchConfig,
    done: list[Round],
    keep: Callable[[list[Round]], None] | None,
    measure: Measure | None,
) -> None:
    """Add rounds to those that are done, until there are enough or they bring nothing more."""
    if _is_over(done, config):
        return
    batch_size = max(1, config.batch_size // BACKWARD)
    ladders = _ladders(model, text.fitted, config, measure)
    metrics = metrics_of_layers(model, text.fitted, config.batch_size)
    judged = Watched.by(model, text.judged, batch_size)
    while not _is_over(done, config):
        seconds: dict[str, float] = {}
        with timed(seconds, "round"):
            if not done:
                made = _as_prune_does_it(model, text.fitted, ladders, judged, config, measure)
            else:
                _take(ladders, _named(done[-1].following))
                priced = Watched.by(model, text.priced(len(done)), batch_size)
                some = Watched.by(model, half_of(priced.windows), batch_size)
                with uncut_again(model):
                    made = _round(model, text.fitted, ladders, metrics, (judged, priced, some), done, config, measure)
        done.append(replace(made, seconds=seconds["round"]))
        logger.info(
            "Round %d: KL divergence %.4f, attention bears %.0f%% of the cut, %.0f s",
            len(done),
            made.divergence,
            100 * made.attention_share,
            seconds["round"],
        )
        if keep is not None:
            keep(done)


def _is_over(done: Sequence[Round], config: SearchConfig) -> bool:
    return len(done) >= config.rounds or len(done) - 1 - best_of(done) >= config.patience


def _as_prune_does_it(
    model: PreTrainedModel,
    fitted: Tensor,
    ladders: Ladders,
    judged: Watched,
    config: SearchConfig,
    measure: Measure | None,
) -> Round:
    """The first round: nothing is measured but how far the cut is from the uncut model."""
    take_by_price(model, list(ladders.values()), config, measure=measure)
    if measure is not None:
        require_met(list(ladders.values()), measure)
    with uncut_again(model):
        cut_with_candidates(model, ladders, fitted, config.batch_size, config.damping, narrower=False)
        distance = divergence(model, judged)
    return _made(model, distance, ladders, dict.fromkeys(ladders, 0.0), _taken(ladders))


def _round(
    model: PreTrainedModel,
    fitted: Tensor,
    ladders: Ladders,
    metrics: Metrics,
    watched: tuple[Watched, Watched, Watched],
    done: Sequence[Round],
    config: SearchConfig,
    measure: Measure | None,
) -> Round:
    """Make the cut that the ladders say, measure it, and say which one follows.

    Args:
        watched: text to judge the cut by, text to find the halves' prices on, and some of the latter.
    """
    judged, priced, some = watched
    cut = cut_with_candidates(model, ladders, fitted, config.batch_size, config.damping, metrics)
    distance = divergence(model, judged)
    changes = expected_changes(model, cut, priced, config.seed + len(done))
    before = _named(done[-1].scales)
    # A step of attention is a large part of it, too large for an expansion: those that would go are run.
    tried: dict[HalfName, float] = {}
    here = divergence(model, some)
    while True:
        scales = _scales(ladders, {**changes, **tried}, before, len(done))
        following = _spread_anew(model, ladders, scales, config, measure)
        going = [
            name
            for name, steps in following.items()
            if name[1] == "attention" and steps > ladders[name].taken and name not in tried
        ]
        if not going or len(tried) >= MOST_TRIED:
            return _made(model, distance, ladders, scales, following)
        for name in going[: MOST_TRIED - len(tried)]:
            with narrowed(model, name, cut[name]):
                tried[name] = divergence(model, some) - here


def _made(
    model: PreTrainedModel,
    distance: float,
    ladders: Ladders,
    scales: Mapping[HalfName, float],
    following: Mapping[HalfName, int],
) -> Round:
    layers = len(part_shapes(model))
    return Round(
        divergence=distance,
        taken=_by_layer(_taken(ladders), layers),
        scales=_by_layer(scales, layers),
        following=_by_layer(following, layers),
        attention_share=_attention_share(list(ladders.values())),
        seconds=0.0,
    )


def _ladders(model: PreTrainedModel, windows: Tensor, config: SearchConfig, measure: Measure | None) -> Ladders:
    """The ladders by which `prune` spreads a cut."""
    scores = obs_scores(model, windows, config.batch_size, config.damping)
    scores = with_measured_halves(model, scores, windows, config.batch_size)
    ladders = build_ladders(model, config, scores, measure)
    keep_expected_losses(model, config, ladders)
    return {(ladder.layer, ladder.part): ladder for ladder in ladders}


def _take(ladders: Ladders, steps: Mapping[HalfName, int]) -> None:
    for name, ladder in ladders.items():
        ladder.taken = steps[name]


def _taken(ladders: Ladders) -> dict[HalfName, int]:
    return {name: ladder.taken for name, ladder in ladders.items()}


def _scales(
    ladders: Ladders, changes: Mapping[HalfName, float], before: Mapping[HalfName, float], rounds: int
) -> dict[HalfName, float]:
    """The mean over the ladders' own scale (0), the rounds before and this one.

    What a half would win back if it were wider says little: the layers behind it were fitted to it as it is. So only
    the cost of narrowing counts, and a half that has nothing left to lose keeps its scale.
    """
    scales = dict(before)
    for name, change in changes.items():
        ladder = ladders[name]
        expected = sum(ladder.costs[ladder.taken : narrower_steps(ladder)])
        if expected > 0:
            now = math.log(max(change / expected, LEAST))
            step = min(max(now - before[name], -FARTHEST), FARTHEST)
            scales[name] = before[name] + step / (rounds + 1)
    return scales


def _spread_anew(
    model: PreTrainedModel,
    ladders: Ladders,
    scales: Mapping[HalfName, float],
    config: SearchConfig,
    measure: Measure | None,
) -> dict[HalfName, int]:
    """The steps to take by the ladders, each at its half's own scale, not far from those that are taken."""
    near, moved = {}, []
    for name, old in ladders.items():
        reach = max(1, len(old.units) // REACH)
        near[name] = (max(0, old.taken - reach), min(len(old.units), old.taken + reach))
        costs, prices = ([math.exp(scales[name]) * each for each in numbers] for numbers in (old.costs, old.prices))
        steps = old.units, costs, old.saved
        moved.append(Ladder(old.layer, old.part, old.shape, *steps, least=old.least, prices=prices))
    take_by_price(model, moved, config, near, measure)
    return {(ladder.layer, ladder.part): ladder.taken for ladder in moved}


def _units(
    model: PreTrainedModel,
    windows: Tensor,
    config: SearchConfig,
    rounds: Sequence[Round],
    measure: Measure | None,
) -> Removed:
    """The units that leave in the best round, chosen on all of the text."""
    removed: Removed = [{part: [] for part in PARTS} for _ in part_shapes(model)]
    best = best_of(rounds)
    metrics = metrics_of_layers(model, windows, config.batch_size) if best else None
    taken = _named(rounds[best].taken)
    ladders = unpriced_ladders(model, config, taken, measure)
    _take(ladders, taken)
    with uncut_again(model):
        cut = cut_with_candidates(model, ladders, windows, config.batch_size, config.damping, metrics, narrower=False)
    for (layer, part), half in cut.items():
        removed[layer][part] = sorted(half.units.tolist())
    return removed


def _plan(
    model: PreTrainedModel,
    config: SearchConfig,
    calibration: Calibration,
    removed: Removed,
    measure: Measure | None,
) -> PruningPlan:
    shapes = part_shapes(model)
    gone = sum(
        len(units) * shapes[layer][part].unit_parameters
        for layer, parts in enumerate(removed)
        for part, units in parts.items()
    )
    head_dim, before = head_dim_of(model), count_parameters(model)
    counts = {(layer, part): len(units) for layer, parts in enumerate(removed) for part, units in parts.items()}
    return PruningPlan(
        ratio=gone / before if config.only_drops or measure else config.ratio,
        parameters_before=before,
        parameters_after=before - gone,
        head_dim=head_dim,
        query_heads_per_group=usual_attention(shapes).heads_per_group,
        layers=plan_layers(shapes, head_dim, removed, config.cut_layers(len(shapes)), None),
        settings=config.model_dump(),
        calibration=calibration.description,
        calibration_windows=len(calibration.windows),
        calibration_source=calibration.corpus.source,
        model=identity(model),
        target=Reached.by(measure, config, counts),
    )


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
