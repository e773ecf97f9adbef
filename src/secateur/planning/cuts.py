"""The smallest cut of a model that fits a memory or meets a target, from its config alone."""

from collections.abc import Container
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from secateur.console import flag
from secateur.costs.config import STORED_BITS, TARGETS, Targets
from secateur.costs.latency import milliseconds_of_model
from secateur.costs.losses import ExpectedLosses, kept_losses
from secateur.costs.measure import Measure
from secateur.costs.memory import bytes_of
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Part
from secateur.models.loading import resolve_dtype
from secateur.models.widths import count_parameters
from secateur.planning.config import PRUNE, PlanConfig
from secateur.planning.shape import ModelShape
from secateur.rounding.config import BITS

STEPS = 60  # of a bisection
NOT_KNOWN = "not known"


@dataclass(frozen=True)
class CutEstimate:
    """What has to leave.

    Attributes:
        bits: of the stored weights; None: as the model's files are.
        before: what the uncut model costs, in words.
        target: what it may cost, in words.
        fits: whether it does without a cut.
        ratio: share of all parameters that has to leave, about, all layers alike; None where no cut is enough.
        after: what the cut model costs, in words; without a ratio what it does at least.
        expected_loss: of the cut alone, in nats per token, where cuts of this model were priced before.
        command: makes the model that fits, its weights rounded to `bits` where `fit` asks for that; empty without one.
    """

    bits: int | None
    before: str
    target: str
    fits: bool
    ratio: float | None
    after: str
    expected_loss: float | None
    command: str

    @property
    def said(self) -> str:
        """One line."""
        stored = "" if self.bits is None else f"at {self.bits} bits "
        if self.fits:
            return f"{stored}{self.before}: fits {self.target} uncut"
        if self.ratio is None:
            return f"{stored}{self.before}: no cut meets {self.target}, the least is {self.after}"
        loss = NOT_KNOWN if self.expected_loss is None else f"{self.expected_loss:.3f} nats a token"
        return f"{stored}{self.before}: a cut by {self.ratio:.1%} meets {self.target}, expected loss of the cut {loss}"


def cut_estimates(
    model: PreTrainedModel, shape: ModelShape, config: PlanConfig, name: str, place: str
) -> list[CutEstimate]:
    """The cuts that a plan asks for: for `fit` at each number of bits, for a target one.

    Args:
        model: without weights.
        shape: of the same.
        config: the plan's.
        name: the model's, for a command line.
        place: where it is, by which expected losses are kept.

    Raises:
        InputError: the device of a target is unknown, or no times are kept of this machine.
    """
    stored: torch.dtype = getattr(torch, shape.dtype)
    losses = kept_losses(place, shape.parameters)
    if config.fit is not None:
        asked = [
            Targets(target_memory=config.fit, context=config.context, batch=config.batch, bits=bits)
            for bits in STORED_BITS
        ]
        return [_estimate(model, bytes_of(model, one, stored=stored), one, name, losses, rounds=True) for one in asked]
    if config.target_option is None:
        return []
    if not config.is_timed:
        return [_estimate(model, bytes_of(model, config, stored=stored), config, name, losses)]
    found = resolve_dtype("auto", torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    nn.Module.to(model, dtype=stored if isinstance(found, str) else found)
    return [_estimate(model, milliseconds_of_model(model, None, config, measures=False), config, name, losses)]


def _estimate(
    model: PreTrainedModel,
    measure: Measure,
    targets: Targets,
    name: str,
    losses: ExpectedLosses | None,
    rounds: bool = False,
) -> CutEstimate:
    before, wanted = measure.shown(measure.whole), measure.shown(measure.target)
    rounds = rounds and targets.bits in BITS
    if measure.whole <= measure.target:
        command = f"secateur quantize {name} -o out/quantized --bits {targets.bits}" if rounds else ""
        return CutEstimate(targets.bits, before, wanted, True, 0.0, before, None, command)
    narrowed = _divisible(model)
    rate = _rate(narrowed, measure)
    after = measure.shown(_cost(narrowed, measure, PRUNE.max_rate if rate is None else rate))
    if rate is None:
        return CutEstimate(targets.bits, before, wanted, False, None, after, None, "")
    ratio = rate * sum(narrowed.values()) / count_parameters(model)
    told = [
        f"{flag('quantize' if rounds and option == 'bits' else option)} {_quoted(str(getattr(targets, option)))}"
        for option in (*TARGETS, "context", "batch", "bits", "target_device", "engine")
        if getattr(targets, option) != Targets.model_fields[option].default
    ]
    command = " ".join(["secateur prune", name, "-o out/pruned", *told])
    return CutEstimate(
        targets.bits, before, wanted, False, ratio, after, None if losses is None else losses.at(ratio), command
    )


def _quoted(value: str) -> str:
    return f"'{value}'" if " " in value else value


def _rate(narrowed: Container[tuple[int, Part]], measure: Measure) -> float | None:
    """The share that all layers have to lose alike; None where the largest that a cut takes is not enough."""
    low, high = 0.0, PRUNE.max_rate
    if _cost(narrowed, measure, high) > measure.target:
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _cost(narrowed, measure, middle) <= measure.target else (middle, high)
    return high


def _cost(narrowed: Container[tuple[int, Part]], measure: Measure, rate: float) -> float:
    """What the model costs when what can be cut of each half loses such a share."""
    return measure.fixed + sum(
        measure.of_half(*half, units * (1 - rate * (half in narrowed))) for half, units in measure.units.items()
    )


def _divisible(model: PreTrainedModel) -> dict[tuple[int, Part], int]:
    """The halves that can be narrowed, with the parameters of their projections."""
    adapter = adapter_of(model)
    halves = {
        (index, part): adapter.half(layer, part) for index, layer in enumerate(adapter.layers(model)) for part in PARTS
    }
    return {
        name: sum(linear.weight.numel() for linear in half.linears)
        for name, half in halves.items()
        if half.names.divisible and not half.is_absent
    }
