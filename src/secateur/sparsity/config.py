"""What `sparsify` can be told, for the command line, recipes and Python alike."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from secateur.calibration.windows import StreamedConfig
from secateur.files.shares import Ratio
from secateur.models.options import no_number
from secateur.rounding.config import RoundsToo
from secateur.sparsity.quota import Pattern

Method = Literal["admm", "sparsegpt", "wanda", "magnitude"]
Allocation = Literal["fisher", "owl", "uniform"]
ONLY_FOR = {
    "damping": "it is for methods admm and sparsegpt",
    "fisher_range": "it is for allocation fisher",
    "owl_range": "it is for allocation owl",
    "owl_outlier": "it is for allocation owl",
}


class SparsifyConfig(RoundsToo, StreamedConfig):
    """Weight sparsity: single weights of the projections become zero."""

    method: Method = Field(
        default="admm",
        description="How zeros are chosen: by |W|·‖x‖ with the rest re-solved (admm), column by column (sparsegpt), by "
        "|W|·‖x‖ (wanda) or |W| (magnitude) alone.",
    )
    sparsity: Ratio | None = Field(
        default=None, gt=0, lt=1, description="Share of the weights that become zero; 0.5 unless given."
    )
    pattern: str | None = Field(
        default=None, description="N:M instead of a share: N of M neighbouring weights of a row stay, 2:4 for example."
    )
    skip: list[str] = Field(
        default_factory=list,
        description="Projections that stay dense: k_proj in all layers, or 3.down_proj in one. Embeddings and "
        "lm_head always do.",
    )
    allocation: Allocation | None = Field(
        default=None,
        description="How zeros are spread: where they should cost least (fisher), fewer in layers with more outliers "
        "(owl), or alike (uniform). Unless given fisher with admm, uniform with other methods and with patterns.",
    )
    fisher_range: Ratio = Field(
        default=0.15, gt=0, lt=0.5, description="Most that a matrix's share is moved by fisher, up or down."
    )
    owl_range: Ratio = Field(
        default=0.08, gt=0, lt=0.5, description="Most that a layer's share is moved by owl, up or down."
    )
    owl_outlier: float = Field(
        default=5.0, gt=1, description="What owl calls an outlier: a score of so many times the layer's mean."
    )
    damping: Ratio | None = Field(
        default=None,
        gt=0,
        description="Ridge of the re-fit: of admm as a share of each input's second moment, 0.5 unless given; of "
        "sparsegpt as a share of their mean, 0.01 unless given.",
    )
    own_text: Ratio = Field(default=0.0, ge=0, le=0.9, description="Share of windows that the model writes itself.")
    layer_by_layer: bool = Field(
        default=False,
        description="Keep the model on the CPU and bring one layer at a time to --device, for a model larger than it.",
    )

    @field_validator("skip", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        return None if value is None else str(Pattern.parse(value))

    @field_validator("pattern", mode="before")
    @classmethod
    def _is_no_pattern_of_yaml(cls, value: object) -> object:
        return no_number(value, "N:M", "2:4")

    @model_validator(mode="after")
    def _share_or_pattern(self) -> Self:
        if self.pattern is not None and self.sparsity is not None:
            raise ValueError("give sparsity or pattern, not both: a pattern has a share of its own")
        if self.pattern is not None and self.allocation not in (None, "uniform"):
            raise ValueError("a pattern is the same in every layer; leave out allocation")
        for name, used in self._only_for.items():
            if name in self.model_fields_set and getattr(self, name) is not None and not used:
                raise ValueError(f"{name} has no effect on this cut; {ONLY_FOR[name]}")
        return self

    @model_validator(mode="after")
    def _rounds_what_is_refitted(self) -> Self:
        if self.quantize is not None and self.method != "admm":
            raise ValueError(f"quantize is for method admm, which re-fits all weights; method {self.method} does not")
        if self.quantize is not None and self.layers is not None:
            raise ValueError("quantize rounds all layers; leave out layers")
        return self

    @property
    def _only_for(self) -> dict[str, bool]:
        owl = self.spread == "owl"
        return {
            "damping": self.method in ("admm", "sparsegpt"),
            "fisher_range": self.spread == "fisher",
            "owl_range": owl,
            "owl_outlier": owl,
        }

    def load_arguments(self) -> dict[str, Any]:
        """As `LoadOptions`; a model that is cut layer by layer stays on the CPU."""
        return {**super().load_arguments(), **({"device": "cpu"} if self.layer_by_layer else {})}

    @property
    def needs_text(self) -> bool:
        """Whether a calibration text is read."""
        return self.method != "magnitude" or self.spread != "uniform"

    @property
    def spread(self) -> Allocation:
        """The allocation that is used."""
        if self.allocation is None:
            return "fisher" if self.method == "admm" and self.pattern is None else "uniform"
        return self.allocation

    @property
    def ridge(self) -> float:
        """The damping that is used."""
        if self.damping is None:
            return 0.01 if self.method == "sparsegpt" else 0.5
        return self.damping

    @property
    def share(self) -> float:
        """Share of the weights that become zero."""
        if self.pattern is not None:
            return Pattern.parse(self.pattern).sparsity
        return 0.5 if self.sparsity is None else self.sparsity
