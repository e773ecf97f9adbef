"""How much each half of each layer loses, so that the whole model loses what was asked for."""

import logging
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedModel

from secateur.costs.config import TOLERANCE as TARGET_TOLERANCE
from secateur.costs.measure import Measure
from secateur.errors import InputError
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Part
from secateur.models.widths import LayerWidths, layer_widths, stock_allows
from secateur.pruning.budget import Budget, budget_of, full_sizes, require_met, take_most
from secateur.pruning.config import CutLimits, PruneConfig
from secateur.pruning.importance import LayerScores
from secateur.pruning.ladders import Ladder, build_ladders
from secateur.pruning.plan import TOLERANCE

logger = logging.getLogger(__name__)


def allocate(
    model: PreTrainedModel,
    config: PruneConfig,
    scores: Sequence[LayerScores],
    importance: Sequence[float] | None,
    measure: Measure | None = None,
) -> list[Ladder]:
    """Decide how many steps of each ladder are taken, so that `ratio` of all parameters leave, or a target is met.

    Args:
        model: the uncut model.
        config: ratio, target, layers, rates, kind of allocation.
        scores: costs of the units of every layer.
        importance: scores of the layers; needed by `inverse` and `proportional`.
        measure: what is counted in the place of parameters, with the target.

    Returns:
        The ladders, with `taken` set.

    Raises:
        InputError: the ratio is more than the layers can lose within their limits, or the target less than they can
            be brought to.
    """
    ladders = build_ladders(model, config, scores, measure)
    budget = budget_of(model, ladders, config, measure)
    if config.only_drops:
        return ladders
    if config.even:
        _allocate_evenly(model, ladders, budget, config, measure)
    elif config.allocation == "global":
        _allocate_globally(ladders, budget, config.attention_share if config.target == "both" else None)
    else:
        _allocate_by_rate(ladders, budget, config, full_sizes(model, ladders), importance)
    if measure is not None:
        require_met(ladders, measure)
    return ladders


def take_by_price(
    model: PreTrainedModel,
    ladders: list[Ladder],
    config: CutLimits,
    within: Mapping[tuple[int, Part], tuple[int, int]] | None = None,
    measure: Measure | None = None,
) -> None:
    """Set the ladders' `taken` by one ranking of all steps by cost per parameter, or by another measure.

    Args:
        within: for each half the fewest and the most steps that it may take. The fewest of all halves are together no
            more than is to be removed.
        measure: what the ladders' steps save, and the target; parameters and the ratio if None.

    Raises:
        InputError: as `allocate`.
    """
    for ladder in ladders:
        ladder.taken = 0
    budget = budget_of(model, ladders, config, measure)
    if config.only_drops:
        return
    for ladder in ladders:
        fewest, ladder.most = within[ladder.layer, ladder.part] if within else (0, None)
        while ladder.taken < fewest and budget.take(ladder, budget.remaining()):
            pass
    _allocate_globally(ladders, budget, None, {name: fewest for name, (fewest, _) in (within or {}).items()})


def _allocate_globally(
    ladders: list[Ladder],
    budget: Budget,
    attention_share: float | None,
    fewest: Mapping[tuple[int, Part], int] | None = None,
) -> None:
    """One ranking of all steps by cost for what they save. `fewest` are steps that stay taken, by half."""
    for ladder in ladders:
        while ladder.left and budget.removed.get(ladder.layer, 0) < budget.least[ladder.layer]:
            cheapest = min(_siblings(ladders, ladder.layer), key=_price)
            if not budget.take(cheapest, budget.remaining()):
                break
    if attention_share is None:
        _take_cheapest(ladders, budget, budget.remaining)
        if budget.slack and budget.remaining() > 0 and not fewest:
            take_most(ladders, budget)
        _give_back(ladders, budget, fewest or {})
        return
    for part, share in (("attention", attention_share), ("mlp", 1.0)):
        chosen = [ladder for ladder in ladders if ladder.part == part]
        # Whole GQA groups come as near to the share as they can, from either side; channels make up the difference.
        half_step = max(ladder.largest_step for ladder in chosen) / 2 if part == "attention" else 0.0
        allowance = share * budget.total + half_step
        _take_cheapest(chosen, budget, _room(chosen, budget, allowance))


def _give_back(ladders: list[Ladder], budget: Budget, fewest: Mapping[tuple[int, Part], int]) -> None:
    """Take back what a total that has to be reached does not need, the dearest steps first."""
    if not budget.slack:
        return
    taken = [ladder for ladder in ladders if ladder.taken]
    while taken:
        dearest = max(taken, key=lambda ladder: ladder.costs[ladder.taken - 1])
        step = dearest.taken - 1
        kept = budget.removed[dearest.layer] - dearest.parameters(step) >= budget.least[dearest.layer]
        needed = step < max(dearest.least, fewest.get((dearest.layer, dearest.part), 0)) or not kept
        if needed or dearest.saved[step] > -budget.remaining():
            taken.remove(dearest)
            continue
        budget.give_back(dearest)
        if not dearest.taken:
            taken.remove(dearest)


def _room(ladders: list[Ladder], budget: Budget, allowance: float) -> Callable[[], float]:
    def room() -> float:
        own = sum(ladder.saved_so_far() for ladder in ladders)
        return min(budget.remaining(), allowance - own)

    return room


def _siblings(ladders: list[Ladder], layer: int) -> list[Ladder]:
    return [ladder for ladder in ladders if ladder.layer == layer and ladder.left]


def _price(ladder: Ladder) -> float:
    """Cost of a ladder's next step by what it saves."""
    return ladder.prices[ladder.taken]


def _take_cheapest(ladders: list[Ladder], budget: Budget, room: Callable[[], float]) -> None:
    """Take the cheapest next step again and again until no step fits the room that is left.

    The last step may overshoot by less than half of itself, so that the total is met as closely as steps allow; where
    the total has to be reached, by the budget's slack.
    """
    open_ladders = [ladder for ladder in ladders if ladder.left]
    while open_ladders:
        if budget.slack and room() <= 0:
            return
        cheapest = min(open_ladders, key=_price)
        fine = cheapest.part == "mlp" or len(cheapest.units) == 1
        over = budget.slack or (cheapest.saved[cheapest.taken] / 2 if fine else 0.0)
        taken = budget.take(cheapest, room() + over)
        if not taken or not cheapest.left:
            open_ladders.remove(cheapest)


def _allocate_by_rate(
    ladders: list[Ladder],
    budget: Budget,
    config: PruneConfig,
    sizes: dict[int, int],
    importance: Sequence[float] | None,
) -> None:
    """A rate for each layer, shared between its halves; rounding of whole GQA groups is evened out over layers."""
    weights = _layer_weights(config, list(sizes), importance)
    wanted = _fill(weights, budget, {layer: float(size) for layer, size in sizes.items()})
    by_part: dict[Part, list[Ladder]] = {part: [x for x in ladders if x.part == part] for part in PARTS}
    if by_part["attention"] and by_part["mlp"]:
        total = sum(ladder.total for ladder in ladders)
        by_size = sum(ladder.total for ladder in by_part["attention"]) / total
        share = by_size if config.attention_share is None else config.attention_share
    else:
        share = 1.0 if by_part["attention"] else 0.0
    _round_off(by_part["attention"], budget, {layer: share * value for layer, value in wanted.items()})
    rest = sum(budget.removed.values())
    scale = (budget.total - rest) / max(1.0, (1 - share) * sum(wanted.values()))
    _round_off(by_part["mlp"], budget, {layer: scale * (1 - share) * value for layer, value in wanted.items()})
    _take_cheapest(by_part["mlp"] or by_part["attention"], budget, budget.remaining)


def _layer_weights(config: PruneConfig, layers: list[int], importance: Sequence[float] | None) -> dict[int, float]:
    """Relative rates: (importance / its mean)^∓α, with importance at least a hundredth of the mean."""
    if config.allocation == "uniform" or importance is None:
        return dict.fromkeys(layers, 1.0)
    mean = sum(max(importance[layer], 0.0) for layer in layers) / len(layers)
    if mean <= 0:
        return dict.fromkeys(layers, 1.0)
    sign = -1 if config.allocation == "inverse" else 1
    return {layer: max(importance[layer] / mean, 0.01) ** (sign * config.alpha) for layer in layers}


def _fill(weights: dict[int, float], budget: Budget, sizes: dict[int, float]) -> dict[int, float]:
    """Parameters that each layer loses: size times clipped rate, the scale of the rates found by bisection."""

    def losses(scale: float) -> dict[int, float]:
        return {
            layer: min(max(scale * weight * sizes[layer], budget.least[layer]), budget.most[layer])
            for layer, weight in weights.items()
        }

    low, high = 0.0, 1.0 / min(weights.values())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(losses(middle).values()) < budget.total else (low, middle)
    return losses(high)


def _round_off(ladders: list[Ladder], budget: Budget, wanted: dict[int, float]) -> None:
    """Take whole steps as near to the wanted parameters as possible; the remainders go to the largest first."""
    for ladder in ladders:
        while ladder.left and ladder.removed_parameters() + ladder.parameters(ladder.taken) <= wanted[ladder.layer]:
            if not budget.take(ladder, budget.remaining()):
                break
    total = sum(wanted[ladder.layer] for ladder in ladders)
    by_remainder = sorted(
        (ladder for ladder in ladders if ladder.left),
        key=lambda ladder: (ladder.removed_parameters() - wanted[ladder.layer]) / ladder.parameters(ladder.taken),
    )
    for ladder in by_remainder:
        missing = total - sum(other.removed_parameters() for other in ladders)
        if missing < ladder.parameters(ladder.taken) / 2:
            break
        budget.take(ladder, missing + ladder.parameters(ladder.taken) / 2)


def _allocate_evenly(
    model: PreTrainedModel, ladders: list[Ladder], budget: Budget, config: PruneConfig, measure: Measure | None
) -> None:
    """The same number of groups and channels in every layer.

    Of the pairs within tolerance of the ratio those that the stock architecture can express come first, then the
    cheapest; where none is within tolerance, the nearest.
    """
    num_layers = len(adapter_of(model).layers(model))
    if len({ladder.layer for ladder in ladders}) != num_layers:
        raise InputError("--even makes all layers equal, so it cannot be combined with --layers or --freeze")
    # Linear attention keeps all its weights, whatever the others lose.
    divisible = [ladder for ladder in ladders if ladder.shape.divisible]
    by_part = {part: [ladder for ladder in divisible if ladder.part == part] for part in PARTS}
    if any(len({tuple(ladder.units) for ladder in row}) > 1 for row in by_part.values()):
        raise InputError("--even needs a model whose layers are equal; this one's differ already")
    choices = {part: _even_choices(row, config.tensor_parallel) for part, row in by_part.items()}
    removed = {part: {steps: sum(_removal(row, steps)) for steps in choices[part]} for part, row in by_part.items()}
    saved = {
        part: {steps: sum(sum(ladder.saved[:steps]) for ladder in row) for steps in choices[part]}
        for part, row in by_part.items()
    }
    share = config.attention_share

    def distance(pair: tuple[int, int]) -> tuple[float, bool, float]:
        attention, mlp = saved["attention"][pair[0]], saved["mlp"][pair[1]]
        miss = abs(attention + mlp - budget.total) / budget.total
        if measure is None:
            near = miss * config.ratio <= TOLERANCE
        else:
            near = measure.allows(measure.whole - attention - mlp, TARGET_TOLERANCE)
        if share is not None:
            preference = abs(attention - share * budget.total)
        else:
            preference = sum(sum(ladder.costs[: pair[0]]) for ladder in by_part["attention"]) + sum(
                sum(ladder.costs[: pair[1]]) for ladder in by_part["mlp"]
            )
        expressible = stock_allows(model, _even_widths(model, by_part, pair))
        return (0.0 if near else miss, not expressible, preference)

    most = min(budget.most.values()) * num_layers
    pairs = [
        (groups, channels)
        for groups in choices["attention"]
        for channels in choices["mlp"]
        if removed["attention"][groups] + removed["mlp"][channels] <= most
    ]
    if not pairs:
        raise InputError(
            f"--max-rate {config.max_rate} does not let equal layers lose what the {config.tensor_parallel} cards of "
            "--tensor-parallel cannot share; raise it"
        )
    best = min(pairs, key=distance)
    for part, steps in zip(PARTS, best, strict=True):
        for ladder in by_part[part]:
            ladder.taken = steps


def _even_choices(ladders: list[Ladder], cards: int) -> list[int]:
    """Steps that all layers may take together: those that leave what cards can share."""
    if not ladders:
        return [0]
    first = ladders[0]
    return [
        steps for steps in range(len(first.units) + 1) if (first.shape.units - sum(first.units[:steps])) % cards == 0
    ]


def _even_widths(model: PreTrainedModel, by_part: dict[Part, list[Ladder]], steps: tuple[int, int]) -> LayerWidths:
    before = layer_widths(model)[0]
    groups, channels = (
        sum(by_part[part][0].units[:count]) if by_part[part] else 0 for part, count in zip(PARTS, steps, strict=True)
    )
    key_value_heads = before.num_key_value_heads - groups
    query_heads = before.num_attention_heads // before.num_key_value_heads * key_value_heads
    return LayerWidths(query_heads, key_value_heads, before.intermediate_size - channels)


def _removal(ladders: list[Ladder], steps: int) -> list[int]:
    return [sum(ladder.parameters(step) for step in range(steps)) for ladder in ladders]
