"""What may leave a model at most and has to at least, and what stands against it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedModel

from secateur.costs.config import TOLERANCE as TARGET_TOLERANCE
from secateur.costs.measure import Measure
from secateur.errors import InputError
from secateur.models.halves import PARTS, Part
from secateur.models.widths import count_parameters
from secateur.pruning.config import CutLimits
from secateur.pruning.importance import PartScores
from secateur.pruning.ladders import Ladder, build_ladders
from secateur.pruning.plan import TOLERANCE
from secateur.pruning.units import NEEDED, halves_there, part_shapes

NAMES: dict[Part, str] = {"attention": "attention", "mlp": "MLP"}


@dataclass
class Budget:
    """What is to be saved, and how far each layer may go.

    Attributes:
        total: what is to be saved: parameters, or what another measure counts.
        least: for each cut layer, parameters that it loses at least.
        most: for each cut layer, parameters that it loses at most.
        removed: parameters removed so far, by layer.
        there: the layers whose softmax attention, and those whose MLP, is still there.
        saved: what the steps taken save.
        slack: by how much the total may be passed, where it has to be reached; 0 where it is to be met as closely as
            steps allow.
    """

    total: float
    least: dict[int, float]
    most: dict[int, float]
    removed: dict[int, int] = field(default_factory=dict)
    there: dict[Part, set[int]] = field(default_factory=dict)
    saved: float = 0
    slack: float = 0

    def is_last(self, ladder: Ladder) -> bool:
        """Whether the model would have no attention, or no MLP, without this one."""
        return self.there[ladder.part] == {ladder.layer}

    def take_asked(self, ladder: Ladder) -> None:
        """Take the steps that have to be taken."""
        while ladder.taken < ladder.least:
            self.step(ladder)

    def step(self, ladder: Ladder) -> None:
        """Take a ladder's next step."""
        if ladder.is_whole_next:
            self.there[ladder.part].discard(ladder.layer)
        self.removed[ladder.layer] = self.removed.get(ladder.layer, 0) + ladder.parameters(ladder.taken)
        self.saved += ladder.saved[ladder.taken]
        ladder.taken += 1

    def give_back(self, ladder: Ladder) -> None:
        """Take back the step that was taken last."""
        ladder.taken -= 1
        self.saved -= ladder.saved[ladder.taken]
        self.removed[ladder.layer] -= ladder.parameters(ladder.taken)
        if ladder.is_whole_next:
            self.there[ladder.part].add(ladder.layer)

    def remaining(self) -> float:
        return self.total - self.saved

    def take(self, ladder: Ladder, limit: float) -> bool:
        """Take the ladder's next step if it saves something, no more than `limit`, and the layer's cap allows it."""
        if not ladder.left or (ladder.is_whole_next and self.is_last(ladder)):
            return False
        saved = ladder.saved[ladder.taken]
        already = self.removed.get(ladder.layer, 0)
        if not 0 < saved <= limit or already + ladder.parameters(ladder.taken) > self.most[ladder.layer]:
            return False
        self.step(ladder)
        return True


def budget_of(
    model: PreTrainedModel, ladders: list[Ladder], config: CutLimits, measure: Measure | None = None
) -> Budget:
    """What may leave, once what was asked to leave outright has; by parameters, or by another measure."""
    parameters, full = count_parameters(model), full_sizes(model, ladders)
    # Layers that lose whole halves or nothing would be left a half each.
    most = 1.0 if config.target == "depth" and "max_rate" not in config.model_fields_set else config.max_rate
    budget = Budget(
        total=round(config.ratio * parameters) if measure is None else measure.whole - measure.target,
        least={layer: config.min_rate * size for layer, size in full.items()},
        most={layer: most * size for layer, size in full.items()},
        there=halves_there(part_shapes(model)),
        slack=0 if measure is None else TARGET_TOLERANCE * measure.target,
    )
    for ladder in ladders:
        budget.take_asked(ladder)
    for part, layers in budget.there.items():
        if not layers:
            raise InputError(f"--drop and --drop-layers leave no {NEEDED[part]} in the model; keep at least one")
    if not config.only_drops:
        _require_something_leaves(ladders, budget, config)
        if measure is None:
            _check_reachable(ladders, budget, config, parameters)
        else:
            _check_target(ladders, budget, config, measure)
    return budget


def full_sizes(model: PreTrainedModel, ladders: Sequence[Ladder]) -> dict[int, int]:
    """Parameters of the layers that the ladders belong to, both halves counted."""
    shapes = part_shapes(model)
    layers = dict.fromkeys(ladder.layer for ladder in ladders)
    return {index: sum(shape.units * shape.unit_parameters for shape in shapes[index].values()) for index in layers}


def require_room(model: PreTrainedModel, config: CutLimits, measure: Measure | None = None) -> None:
    """Check, before anything is measured on text, that the layers can lose what is asked for.

    Raises:
        InputError: they cannot; with the reason where nothing at all can leave.
    """
    nothing = torch.zeros(0, dtype=torch.long)
    scores = [
        {part: PartScores(nothing, torch.zeros(shape[part].units, dtype=torch.float64)) for part in PARTS}
        for shape in part_shapes(model)
    ]
    ladders = build_ladders(model, config, scores, measure)
    if not config.drop_layers:  # which layers cost least, and so how much is left, is not known yet
        budget_of(model, ladders, config, measure)


def require_met(ladders: Sequence[Ladder], measure: Measure) -> None:
    """Check that the steps taken meet a target. Raises `InputError` where none of this model's come near it."""
    cost = measure.whole - sum(ladder.saved_so_far() for ladder in ladders)
    if not measure.allows(cost, TARGET_TOLERANCE):
        raise InputError(
            f"{measure.asked} cannot be met within {TARGET_TOLERANCE:.0%}: with these options the nearest is "
            f"{measure.shown(cost)}, of {measure.shown(measure.whole)} uncut"
        )


def _check_target(ladders: list[Ladder], budget: Budget, config: CutLimits, measure: Measure) -> None:
    if budget.total <= 0:
        raise InputError(
            f"the model is at {measure.shown(measure.whole)} as it is, which meets {measure.asked}; nothing has to be "
            "cut"
        )
    smallest = measure.whole - _most_saved(ladders, budget)
    if measure.target < smallest * (1 - TARGET_TOLERANCE / 10):
        stays = "; ".join(_what_stays(ladders, budget, config))
        raise InputError(
            f"{measure.asked} is beyond what can be reached: at --max-rate {config.max_rate} the nearest is "
            f"{measure.shown(smallest)}, of {measure.shown(measure.whole)} uncut{stays and f'; {stays}'}"
        )


def _most_saved(ladders: Sequence[Ladder], budget: Budget) -> float:
    """What can be saved at most: in each layer the steps of its halves that save most within its limit."""
    layers = _by_layer(ladders)
    most = {layer: _most_of_layer(own, _limit(budget, layer))[0] for layer, own in layers.items()}
    total = sum(most.values())
    for part in PARTS:  # the model keeps one of each
        last = [ladder.layer for ladder in ladders if ladder.part == part and ladder.may_leave_whole]
        if last and budget.there[part] <= {*last}:
            total -= min(most[each] - _most_of_layer(layers[each], _limit(budget, each), {part})[0] for each in last)
    return total


def take_most(ladders: Sequence[Ladder], budget: Budget) -> None:
    """Take in each layer the steps of its halves that save most within its limit."""
    for layer, own in _by_layer(ladders).items():
        for ladder in own:
            while ladder.taken > ladder.least:
                budget.give_back(ladder)
        keeps = {ladder.part for ladder in own if budget.is_last(ladder)}
        for ladder, steps in zip(own, _most_of_layer(own, _limit(budget, layer), keeps)[1], strict=True):
            for _ in range(steps - ladder.taken):
                budget.step(ladder)


def _by_layer(ladders: Sequence[Ladder]) -> dict[int, list[Ladder]]:
    layers: dict[int, list[Ladder]] = defaultdict(list)
    for ladder in ladders:
        layers[ladder.layer].append(ladder)
    return layers


def _limit(budget: Budget, layer: int) -> float:
    """Parameters that a layer may lose: where more were asked to leave by name, these."""
    return max(budget.most[layer], budget.removed.get(layer, 0))


def _most_of_layer(
    ladders: Sequence[Ladder], limit: float, keeps: Set[Part] = frozenset()
) -> tuple[float, tuple[int, ...]]:
    """What the halves of a layer can save together, and by how many steps of each.

    Args:
        limit: parameters that may leave.
        keeps: the halves that do not leave whole.
    """
    ways = [range(x.least, max(x.least, len(x.units) - (x.part in keeps and x.may_leave_whole)) + 1) for x in ladders]
    parameters, saved = np.zeros(()), np.zeros(())
    for ladder, way in zip(ladders, ways, strict=True):
        gone = np.cumsum([0, *(ladder.parameters(step) for step in range(len(ladder.units)))])
        parameters = parameters[..., None] + gone[way]
        saved = saved[..., None] + np.cumsum([0.0, *ladder.saved])[way]
    saved = np.where(parameters <= limit, saved, -1.0)
    best = np.unravel_index(int(saved.argmax()), saved.shape)
    return max(0.0, float(saved.max())), tuple(way[int(place)] for way, place in zip(ways, best, strict=True))


def _require_something_leaves(ladders: list[Ladder], budget: Budget, config: CutLimits) -> None:
    if all(not _has_room(ladder, budget) for ladder in ladders) and not budget.removed:
        stays = "; ".join(_what_stays(ladders, budget, config))
        raise InputError(f"with --target {config.target} nothing can leave: {stays}")


def _check_reachable(ladders: list[Ladder], budget: Budget, config: CutLimits, parameters: int) -> None:
    stays = "; ".join(_what_stays(ladders, budget, config))
    reachable = _reachable(ladders, budget) / parameters
    if config.ratio > reachable + TOLERANCE:
        raise InputError(
            f"--ratio {config.ratio} is more than can be removed: with these layers, target and --max-rate "
            f"{config.max_rate} at most {reachable:.3f} of all parameters can go (embeddings and norms are never "
            f"cut, and a layer keeps {_least_kept(config)}{stays and f'; {stays}'})"
        )
    floor = sum(budget.least.values()) / parameters
    if config.ratio < floor - TOLERANCE:
        raise InputError(
            f"--min-rate {config.min_rate} alone removes {floor:.3f} of all parameters, more than --ratio "
            f"{config.ratio}; lower one or raise the other"
        )


def _reachable(ladders: Sequence[Ladder], budget: Budget) -> float:
    """Parameters that can leave at most."""
    sizes: dict[int, int] = {}
    for ladder in ladders:
        steps = sum(ladder.units) * ladder.shape.unit_parameters if _has_room(ladder, budget) else 0
        sizes[ladder.layer] = sizes.get(ladder.layer, 0) + steps
    rooms = {layer: min(size, budget.most[layer]) for layer, size in sizes.items()}
    kept = 0.0  # since the model keeps an attention and an MLP, where all might leave
    for part in PARTS:
        last = {x.layer: x.parameters(len(x.units) - 1) for x in ladders if x.part == part and x.may_leave_whole}
        if last and budget.there[part] <= last.keys():
            kept += min(max(0.0, rooms[layer] - (sizes[layer] - size)) for layer, size in last.items())
    return sum(max(room, budget.removed.get(layer, 0)) for layer, room in rooms.items()) - kept


def _has_room(ladder: Ladder, budget: Budget) -> bool:
    """Whether its first step may be taken."""
    return bool(ladder.units) and ladder.parameters(0) <= budget.most[ladder.layer]


def _what_stays(ladders: Sequence[Ladder], budget: Budget, config: CutLimits) -> Iterator[str]:
    """What cannot lose anything, and why, layers with the same reason together."""
    layers: dict[tuple[Part, str], list[int]] = defaultdict(list)
    for ladder in ladders:
        if not _has_room(ladder, budget):
            layers[ladder.part, _why(ladder, config)].append(ladder.layer)
    for (part, why), indices in layers.items():
        yield f"the {NAMES[part]} of layer{'s' if len(indices) > 1 else ''} {_ranges(indices)} {why}"


def _why(ladder: Ladder, config: CutLimits) -> str:
    """Why nothing can leave a half."""
    shape = ladder.shape
    if not shape.units:
        return "is not there"
    if not shape.divisible:
        return f"stays as it is: it is {shape.stays_as}"
    if ladder.units:
        return f"has no step as small as --max-rate {config.max_rate}"
    if config.reach == "whole":
        return "cannot leave whole in this family"
    return f"has no more than a layer keeps, {_least_kept(config)}"


def _least_kept(config: CutLimits) -> str:
    if config.reach != "narrow":
        return "what --max-rate leaves it"
    if config.channel_multiple is None and config.tensor_parallel == 1:
        return "one GQA group and a few channels"
    return "what --channel-multiple and --tensor-parallel ask for"


def _ranges(indices: Sequence[int]) -> str:
    """Rising numbers with those in a row together: 0-3, 5."""
    starts = [indices[0], *(after for before, after in pairwise(indices) if after != before + 1)]
    ends = [*(before for before, after in pairwise(indices) if after != before + 1), indices[-1]]
    return ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True))
