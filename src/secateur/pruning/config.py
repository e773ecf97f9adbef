"""What `prune` can be told, for the command line, recipes and Python alike."""

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from secateur.calibration.windows import CalibratedConfig, StreamedConfig
from secateur.console import flag
from secateur.costs.config import COUNTED, TARGETS, Targets
from secateur.errors import InputError
from secateur.files.input_text import shortened
from secateur.files.shares import Ratio
from secateur.models.halves import PARTS, Part
from secateur.models.masks import ZEROS_HELP, Zeros
from secateur.rounding.config import RoundsToo

Target = Literal["both", "attention", "mlp", "depth"]
Reach = Literal["narrow", "all", "whole"]
UnitImportance = Literal["obs", "fisher", "taylor", "activation", "magnitude"]
LayerImportanceMethod = Literal["removal", "activation", "similarity"]
Allocation = Literal["global", "inverse", "proportional", "uniform"]


DROPPED: dict[str, tuple[Part, ...]] = {"layers": PARTS, "attention": ("attention",), "mlp": ("mlp",)}


class CutLimits(Targets, CalibratedConfig):
    """What is cut."""

    ratio: Ratio = Field(default=0.25, gt=0, lt=1, description="Share of all parameters to remove.")
    target: Target = Field(default="both", description="What is cut; depth: only whole halves of layers.")
    keep_halves: bool = Field(
        default=False, description="Leave something of every attention and every MLP; no half of a layer goes whole."
    )
    drop_layers: int = Field(default=0, ge=0, description="Drop so many whole layers, those that cost least.")
    drop: str = Field(
        default="", description="Halves to drop whole: layers=20-24, attention=25,26, mlp=3, or several of them."
    )
    freeze: list[int] = Field(default_factory=list, description="Layers that lose nothing, e.g. 0,1,31.")
    min_rate: Ratio = Field(
        default=0.0, ge=0, le=1, description="Least share of its parameters that a cut layer loses."
    )
    max_rate: Ratio = Field(
        default=0.8, ge=0, le=1, description="Largest share of its parameters that a cut layer loses."
    )
    channel_multiple: int | None = Field(
        default=None,
        ge=1,
        description="How many MLP channels a cut layer keeps is a multiple of this. Unless given, 32 where the widest "
        "layer has 1,024 or more, else 8.",
    )
    tensor_parallel: int = Field(
        default=1,
        ge=1,
        description="How many cards are to share each layer: what it keeps of GQA groups and of MLP channels divides "
        "by this.",
    )
    zeros: Zeros = Field(default="auto", description=f"{ZEROS_HELP}, no re-fit is made, which would fill them.")
    damping: Ratio = Field(
        default=0.2, gt=0, description="Ridge of the re-fit, as a share of the inputs' mean second moment."
    )

    @field_validator("freeze", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _halves_stay_or_leave(self) -> Self:
        if self.keep_halves and (self.target == "depth" or self.drop or self.drop_layers):
            raise ValueError("--keep-halves lets no half of a layer leave whole; leave it out to drop some")
        return self

    @model_validator(mode="after")
    def _counts_a_target(self) -> Self:
        for name, counted in COUNTED.items():
            given = name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default
            if given and self.target_option not in counted:
                raise ValueError(f"{flag(name)} has no effect without {' or '.join(map(flag, counted))}; leave it out")
        return self

    def cuts(self, part: Part) -> bool:
        """Whether this half of a layer may be cut."""
        return self.target in ("both", "depth", part)

    @property
    def reach(self) -> Reach:
        """How far halves of layers may be narrowed."""
        if self.target == "depth":
            return "whole"
        return "narrow" if self.keep_halves else "all"

    @property
    def only_drops(self) -> bool:
        """Whether nothing leaves but what is named."""
        named = "ratio" in self.model_fields_set or self.target_option is not None
        return bool(self.drop_layers or self.drop) and not named

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        if self.min_rate > self.max_rate:
            raise ValueError(f"--min-rate {self.min_rate} is larger than --max-rate {self.max_rate}")
        list(self._dropped())
        return self

    def _dropped(self) -> Iterator[tuple[int, int, tuple[Part, ...]]]:
        """First and last layer of each word of `drop`, and which halves. Raises `ValueError` for one that is none."""
        parts: tuple[Part, ...] = ()
        for word in filter(None, re.split(r"[,;\s]+", self.drop)):
            kind, equals, numbers = word.rpartition("=")
            if equals:
                if kind not in DROPPED:
                    raise ValueError(f"--drop has '{shortened(kind)}'; it can have {', '.join(DROPPED)}")
                parts = DROPPED[kind]
            match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", numbers)
            if match is None or not parts:
                raise ValueError(f"--drop cannot read '{shortened(word)}'; write layers=20-24 or attention=25,26")
            first, last = int(match[1]), int(match[2] or match[1])
            if first > last:
                raise ValueError(f"--drop names {numbers}; write the lower layer first")
            yield first, last, parts

    def asked_to_leave(self, num_layers: int) -> set[tuple[int, Part]]:
        """The halves that `drop` names. Raises `InputError` where they are of layers outside the model."""
        found: set[tuple[int, Part]] = set()
        for first, last, parts in self._dropped():
            if last >= num_layers:
                numbers = f"{first}-{last}" if first < last else last
                raise InputError(f"--drop names {numbers}; the model has layers 0 to {num_layers - 1}")
            found |= {(layer, part) for layer in range(first, last + 1) for part in parts}
        if self.drop and not found:
            raise InputError(f"--drop '{shortened(self.drop)}' names nothing; write layers=20-24 or attention=25,26")
        return found

    def cut_layers(self, num_layers: int) -> list[int]:
        """The layers that may be cut.

        Raises:
            InputError: the range or a frozen layer is outside the model, or nothing is left to cut.
        """
        layers = self.layer_range(num_layers)
        outside = [index for index in self.freeze if not 0 <= index < num_layers]
        if outside:
            raise InputError(f"--freeze names layer {outside[0]}; the model has layers 0 to {num_layers - 1}")
        chosen = [index for index in layers if index not in self.freeze]
        if not chosen:
            raise InputError("no layer is left to cut: --freeze names every layer of the range")
        return chosen


MULTIPLES = ("channel_multiple", "tensor_parallel")
PLANNED = (
    "ratio",
    *TARGETS,
    "target",
    "keep_halves",
    "drop_layers",
    "drop",
    "layers",
    "freeze",
    "min_rate",
    "max_rate",
    "attention_share",
    "even",
    "allocation",
    "alpha",
)


class PruneConfig(RoundsToo, StreamedConfig, CutLimits):
    """Structured pruning of GQA groups and MLP channels."""

    earlier_names: ClassVar[Mapping[str, str]] = {"layer_importance_samples": "layer_importance_windows"}

    plan: str | None = Field(
        default=None,
        description="Cut what this pruning_plan.json says, of search, of another cut or written by hand; options that "
        "decide how much leaves where are refused beside it.",
    )
    attention_share: Ratio | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of the cut that attention bears. By size unless given; with the global allocation, as "
        "the ranking of units falls.",
    )
    even: bool = Field(
        default=False,
        description="Make all layers equal: a stock architecture where its config allows it. --allocation is not used.",
    )
    importance: UnitImportance = Field(
        default="obs",
        description="Score of a unit: obs (error left after the best re-fit), fisher (obs, with errors weighed by how "
        "much the loss minds their direction), taylor, activation, magnitude.",
    )
    allocation: Allocation = Field(
        default="global",
        description="How the cut is spread over layers: one ranking of all units, or a rate per layer.",
    )
    alpha: float = Field(
        default=1.0, gt=0, description="How strongly rates follow layer importance (inverse, proportional)."
    )
    layer_importance: LayerImportanceMethod = Field(
        default="removal",
        description="Score of a layer: rise of log-perplexity without it, norm of what it adds, 1 - cosine of input "
        "and output.",
    )
    layer_importance_windows: int = Field(default=8, ge=1, description="Windows for the scores of layers.")
    layer_importance_file: str | None = Field(
        default=None, description="Use the layer_importance.json of an earlier run instead of computing it."
    )
    compensate: bool = Field(
        default=True,
        description="Re-fit o_proj and down_proj of every layer from the first cut on, so that little is lost.",
    )

    @property
    def by_refit(self) -> bool:
        """Whether a unit's score is what is left of it after the best re-fit, which the cut itself finds best."""
        return self.importance in ("obs", "fisher")

    @property
    def reach(self) -> Reach:
        """How far halves of layers may be narrowed; equal layers all keep theirs."""
        return "narrow" if self.even else super().reach

    @model_validator(mode="after")
    def _rates_share_out_a_ratio(self) -> Self:
        if self.target_option is not None and not self.even and self.allocation != "global":
            raise ValueError(
                f"--allocation {self.allocation} shares out a --ratio; leave it out beside {flag(self.target_option)}"
            )
        return self

    @model_validator(mode="after")
    def _even_keeps_halves(self) -> Self:
        if self.even and (self.target == "depth" or self.drop or self.drop_layers):
            raise ValueError("--even makes all layers equal; leave it out to drop layers or halves of them")
        if self.even and self.freeze:
            raise ValueError("--even makes all layers equal, so it cannot be combined with --layers or --freeze")
        return self

    @model_validator(mode="after")
    def _one_number_of_bits(self) -> Self:
        if self.quantize is not None and self.bits not in (None, self.quantize):
            raise ValueError(
                f"--bits {self.bits} beside --quantize {self.quantize}: the target counts what is written; leave out "
                "--bits"
            )
        return self

    @model_validator(mode="after")
    def _rounds_what_is_refitted(self) -> Self:
        if self.quantize is not None and not self.compensate:
            raise ValueError("quantize rounds re-fitted weights; leave out --no-compensate, or use secateur quantize")
        return self

    @model_validator(mode="after")
    def _plan_decides(self) -> Self:
        given = [name for name in PLANNED if name in self.model_fields_set]
        if self.plan is not None and given:
            raise ValueError(f"the plan decides that; leave out {', '.join(map(flag, given))}, or the plan")
        return self
