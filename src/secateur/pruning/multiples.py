"""Of which number a multiple is kept of each half of a layer: for matrix units, blocks of quantised weights, cards."""

import math
from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from secateur.errors import InputError
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Part
from secateur.pruning.config import CutLimits, PruneConfig
from secateur.pruning.units import PartShape
from secateur.rounding.config import LEAST_GROUP, USUAL_GROUPS

Shapes = Sequence[Mapping[Part, PartShape]]

# Unless --channel-multiple is given, by the widest layer: each number with the channels from which on it is taken.
USUAL_MULTIPLES = ((32, 1024), (8, 9), (1, 0))
CHOICES = 4  # widths that the narrowest layer can be cut to, at least, where a cut that rounds has a free choice
UNITS: dict[Part, str] = {"attention": "GQA groups", "mlp": "MLP channels"}


def usual_channel_multiple(shapes: Shapes) -> int:
    """The multiple of MLP channels that is kept where none is asked for: 32 of layers with at least 32 times as many.

    Args:
        shapes: the units of every layer's attention and MLP.
    """
    widest = max(shape["mlp"].units for shape in shapes)
    return next(multiple for multiple, least in USUAL_MULTIPLES if widest >= least)


def kept_multiples(config: CutLimits, shapes: Shapes) -> list[dict[Part, int]]:
    """For each layer and half the number of which a multiple is kept, if anything leaves it.

    Args:
        config: `channel_multiple` and `tensor_parallel`, which are combined.
        shapes: the units of every layer's attention and MLP.
    """
    usual = usual_channel_multiple(shapes)

    def of_channels(units: int) -> int:
        if config.channel_multiple is not None:
            return math.lcm(config.channel_multiple, config.tensor_parallel)
        multiple = math.lcm(usual, config.tensor_parallel)
        return multiple if units > multiple else config.tensor_parallel

    return [{"attention": config.tensor_parallel, "mlp": of_channels(shape["mlp"].units)} for shape in shapes]


def with_whole_groups(config: PruneConfig, model: PreTrainedModel) -> PruneConfig:
    """The settings of a cut that rounds, with a multiple of MLP channels that groups of weights divide.

    Raises:
        InputError: the multiple asked for is none, or cut attention cannot keep one.
    """
    adapter = adapter_of(model)
    halves = [adapter.half(layer, part) for layer in adapter.layers(model) for part in PARTS]
    narrowest = min((half.units for half in halves if half.part == "mlp" and half.names.divisible), default=0)
    least = LEAST_GROUP if config.group == "auto" else config.group
    if config.channel_multiple is None:
        usual = next((group for group in USUAL_GROUPS if narrowest >= CHOICES * group), least)
        config = config.model_copy(update={"channel_multiple": usual if config.group == "auto" else least})
    if config.cuts("mlp") and math.lcm(config.channel_multiple or 1, config.tensor_parallel) % least:
        raise InputError(
            f"--channel-multiple {config.channel_multiple} leaves widths that no group of {least} divides, as "
            f"--quantize needs; give a multiple of {least}, or leave it out"
        )
    for half in halves:
        divisible = half.part == "attention" and not half.is_absent and half.names.divisible
        if divisible and config.cuts("attention") and half.block_size * config.tensor_parallel % least:
            raise InputError(
                f"a GQA group has {half.block_size} inputs of o_proj, so that cut attention has widths which no group "
                f"of {least} divides, as --quantize needs; pass --target mlp, or another --group"
            )
    return config


def require_multiples(config: CutLimits, shapes: Shapes, even: bool | None = None) -> None:
    """Check that a cut of a model can leave what `channel_multiple` and `tensor_parallel` ask for.

    Args:
        config: what is cut.
        shapes: the units of every layer's attention and MLP.
        even: whether all layers will lose the same, so that each is known to be cut to what is asked for; None where
            that is no option (search).

    Raises:
        InputError: a layer cannot.
    """
    cards = config.tensor_parallel
    # --even refuses layers that differ already, so that nobody is sent there with such a model.
    equal = len({tuple(shape[part].units for part in PARTS) for shape in shapes}) == 1
    for index, shape in enumerate(shapes):
        for part in PARTS:
            units = shape[part].units
            if not units:
                continue
            if units < cards:
                raise InputError(
                    f"layer {index} has {units} {UNITS[part]}, fewer than the {cards} cards of --tensor-parallel"
                )
            if units % cards and not (even and config.cuts(part)):
                helps = even is not None and equal and config.cuts(part)
                advice = "; --even cuts all layers to what they can share" if helps else ""
                raise InputError(
                    f"layer {index} has {units} {UNITS[part]}, and the {cards} cards of --tensor-parallel cannot share "
                    f"them equally{advice}"
                )
    if config.channel_multiple is None or not config.cuts("mlp"):
        return
    for index in config.cut_layers(len(shapes)):
        units, multiple = shapes[index]["mlp"].units, math.lcm(config.channel_multiple, cards)
        if multiple > units > 0 and config.reach != "whole":
            together = "" if cards == 1 else f" with --tensor-parallel {cards}"
            raise InputError(
                f"layer {index} has {units} MLP channels and cannot keep a multiple of --channel-multiple "
                f"{config.channel_multiple}{together}; lower it"
            )


def require_kept_multiples(
    config: CutLimits, shapes: Shapes, counts: Mapping[tuple[int, Part], int], source: str
) -> None:
    """Check that a given cut leaves what `channel_multiple` and `tensor_parallel` ask for, where they do.

    Args:
        config: what is asked for.
        shapes: the units of every layer's attention and MLP.
        counts: how many units leave each half of each layer.
        source: what messages call the cut.

    Raises:
        InputError: a layer keeps something else.
    """
    for index, shape in enumerate(shapes):
        for part in PARTS:
            gone = counts.get((index, part), 0)
            kept = shape[part].units - gone
            if kept % config.tensor_parallel:
                raise InputError(
                    f"{source}: layer {index} is left {kept} {UNITS[part]}, and the {config.tensor_parallel} cards of "
                    "--tensor-parallel cannot share them equally"
                )
            if part == "mlp" and gone and kept % (config.channel_multiple or 1):
                raise InputError(
                    f"{source}: layer {index} is left {kept} MLP channels, no multiple of --channel-multiple "
                    f"{config.channel_multiple}"
                )
