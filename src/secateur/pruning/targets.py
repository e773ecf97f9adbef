"""What a cut is measured by: parameters, unless a target in bytes or milliseconds is given."""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.costs.latency import milliseconds_of_model
from secateur.costs.losses import keep_losses
from secateur.costs.measure import Measure
from secateur.costs.memory import bytes_of
from secateur.distributed import is_first
from secateur.models.widths import count_parameters
from secateur.pruning.config import CutLimits, PruneConfig
from secateur.pruning.ladders import Ladder

LOSS_STEP = 0.01  # of all parameters, between two points that are kept


def measure_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, config: CutLimits) -> Measure | None:
    """What the model costs in the unit of the target that is given; None where the ratio counts, of parameters.

    Args:
        model: the uncut model.
        tokenizer: its tokenizer, which a file for llama.cpp needs.
        config: the target. A time is looked up among those kept of this machine, or measured.

    Raises:
        InputError: the device is unknown, or its times cannot be measured.
    """
    if config.target_option is None:
        return None
    if config.target_option == "target_memory":
        rounding = config.rounding(model) if isinstance(config, PruneConfig) else None
        return bytes_of(model, config, rounding=rounding)
    return milliseconds_of_model(model, tokenizer, config)


def keep_expected_losses(model: PreTrainedModel, config: CutLimits, ladders: Sequence[Ladder]) -> None:
    """Keep what cuts of all the model are expected to cost, for `secateur plan`.

    Args:
        model: the uncut model.
        config: what may be cut; where that is a part of the model, nothing is kept.
        ladders: of all halves, their costs in nats per token.
    """
    whole = config.target == "both" and not (config.layers or config.freeze or config.drop or config.drop_layers)
    if whole and is_first():
        parameters = count_parameters(model)
        keep_losses(model.name_or_path or "", parameters, [*_points(ladders, parameters)])


def _points(ladders: Sequence[Ladder], parameters: int) -> Iterator[tuple[float, float]]:
    """Shares of all parameters with the costs of the cheapest steps that remove as many."""
    steps = sorted(
        (cost / max(1, ladder.parameters(number)), ladder.parameters(number), cost)
        for ladder in ladders
        for number, cost in enumerate(ladder.costs)
    )
    gone, loss, last = 0, 0.0, 0.0
    for number, (_, size, cost) in enumerate(steps, start=1):
        gone, loss = gone + size, loss + cost
        if gone / parameters >= last + LOSS_STEP or number == len(steps):
            last = gone / parameters
            yield last, loss
