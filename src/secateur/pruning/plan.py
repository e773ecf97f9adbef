"""What a cut takes away and leaves, layer by layer: the content of `pruning_plan.json`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from secateur.console import flag
from secateur.costs.reached import Reached
from secateur.models.halves import PARTS, Part
from secateur.models.widths import LayerWidths
from secateur.pruning.config import MULTIPLES
from secateur.pruning.units import PartShape, usual_attention
from secateur.showing import Drawn
from secateur.wording import worded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 0.005  # of the share of all parameters that is asked for
logger = logging.getLogger(__name__)


@dataclass
class LayerPlan:
    """One layer's cut.

    Attributes:
        layer: its index.
        before: widths before the cut.
        after: widths after it.
        removed_groups: indices of the GQA groups that leave.
        removed_channels: indices of the MLP channels that leave.
        rate: share of the layer's attention and MLP parameters that leaves.
        attention_rate: share of its attention that leaves.
        mlp_rate: share of its MLP that leaves.
        frozen: whether the layer was not to be cut.
        importance: its score, where layers were scored.
    """

    layer: int
    before: LayerWidths
    after: LayerWidths
    removed_groups: list[int]
    removed_channels: list[int]
    rate: float
    attention_rate: float
    mlp_rate: float
    frozen: bool
    importance: float | None = None

    def figures(self) -> dict[str, Any]:
        """A row of a table: shares that leave, and widths before and after."""
        names = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
        widths = {
            f"{name}{when}": getattr(of, name)
            for name in names
            for when, of in (("", self.after), (" before", self.before))
        }
        shares = {name: getattr(self, name) for name in ("layer", "rate", "attention_rate", "mlp_rate", "importance")}
        return {**shares, **widths, "frozen": self.frozen}

    def to_dict(self) -> dict[str, Any]:
        widths = {name: [value, getattr(self.after, name)] for name, value in asdict(self.before).items()}
        rest = {key: value for key, value in asdict(self).items() if key not in ("before", "after")}
        return {**rest, **widths}


@dataclass(repr=False)
class PruningPlan(Drawn):
    """A whole cut.

    Attributes:
        ratio: share of all parameters that was asked for.
        parameters_before: parameters of the uncut model.
        parameters_after: parameters of the cut one.
        head_dim: width of a head.
        query_heads_per_group: query heads of a GQA group, before and after; of the first layer whose groups can leave.
        layers: each layer's cut.
        settings: the configuration that led to it.
        calibration: the calibration text, in words.
        calibration_windows: how much of it: windows of `settings["seqlen"]` tokens.
        calibration_source: the identity of that text's source.
        model: which model it is a plan of, as `units.identity` has it.
        target: what was asked for in the place of the ratio, which is then the one reached.
    """

    ratio: float
    parameters_before: int
    parameters_after: int
    head_dim: int
    query_heads_per_group: int
    layers: list[LayerPlan]
    settings: dict[str, Any] = field(default_factory=dict)
    calibration: str = ""
    calibration_windows: int = 0
    calibration_source: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    target: Reached | None = None

    @property
    def reached(self) -> float:
        """Share of all parameters that is removed."""
        return 1 - self.parameters_after / self.parameters_before

    def headline(self) -> str:
        met = f"; {self.target.said()}" if self.target else ""
        return f"{self.parameters_before:,} → {self.parameters_after:,} parameters, {self.reached:.1%} removed{met}"

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [layer.figures() for layer in self.layers]

    def plot(self) -> "Figure":
        from secateur.report import figure_of, pruning_strategy

        return figure_of(pruning_strategy, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        own = {key: value for key, value in vars(self).items() if key not in ("layers", "target")}
        target = None if self.target is None else asdict(self.target)
        layers = [layer.to_dict() for layer in self.layers]
        return {**own, "reached": self.reached, "target": target, "layers": layers}


def plan_layers(
    shapes: Sequence[Mapping[Part, PartShape]],
    head_dim: int,
    removed: Sequence[Mapping[Part, list[int]]],
    cut_layers: Sequence[int],
    importance: Sequence[float] | None,
) -> list[LayerPlan]:
    """Describe a cut.

    Args:
        shapes: each layer's attention and MLP before the cut.
        head_dim: width of a head.
        removed: for each layer, the units that leave its attention and its MLP.
        cut_layers: the layers that were allowed to be cut.
        importance: scores of the layers.
    """
    usual = usual_attention(shapes)
    plans = []
    for index, (shape, gone) in enumerate(zip(shapes, removed, strict=True)):
        sizes = {part: shape[part].units * shape[part].unit_parameters for part in PARTS}
        losses = {part: len(gone[part]) * shape[part].unit_parameters for part in PARTS}
        plans.append(
            LayerPlan(
                layer=index,
                before=_widths(shape, usual, head_dim),
                after=_widths(shape, usual, head_dim, gone),
                removed_groups=gone["attention"],
                removed_channels=gone["mlp"],
                rate=sum(losses.values()) / max(sum(sizes.values()), 1),
                attention_rate=losses["attention"] / max(sizes["attention"], 1),
                mlp_rate=losses["mlp"] / max(sizes["mlp"], 1),
                frozen=index not in cut_layers,
                importance=None if importance is None else importance[index],
            )
        )
    return plans


def warn_of_miss(plan: PruningPlan, even: bool = False) -> None:
    """Say where a cut is not as large as was asked, and why."""
    if abs(plan.reached - plan.ratio) > TOLERANCE:
        reasons = worded(", or ".join(_reasons_of_miss(plan, even)))
        logger.warning("Removed %.3f of all parameters, not %.3f: %s", plan.reached, plan.ratio, reasons)


def _reasons_of_miss(plan: PruningPlan, even: bool) -> Iterator[str]:
    """What may have kept a cut from its ratio, the likeliest first."""
    given = [(name, plan.settings.get(name) or 1) for name in MULTIPLES]
    steps = [f"{flag(name)} {number}" for name, number in given if number > 1]
    if steps:
        yield f"the steps of {' and '.join(steps)} are large in this model"
    if even:
        yield "equal layers can only lose whole GQA groups and channels in every layer at once"
        return
    if plan.settings.get("target") == "depth":
        yield "whole halves of layers are large in this model"
    elif plan.settings.get("target") != "mlp":
        yield "whole GQA groups are large in this model"
    yield "--max-rate, --target or --attention-share leaves no room"


def _widths(
    shape: Mapping[Part, PartShape],
    usual: PartShape,
    head_dim: int,
    gone: Mapping[Part, list[int]] | None = None,
) -> LayerWidths:
    attention = shape["attention"] if shape["attention"].heads or not shape["attention"].units else usual
    groups = attention.key_value_heads - (len(gone["attention"]) if gone else 0)
    channels = shape["mlp"].units - (len(gone["mlp"]) if gone else 0)
    return LayerWidths(groups * attention.heads_per_group, groups, channels)
