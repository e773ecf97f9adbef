"""When training goes over from dense to sparse attention."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from secateur.longrange.config import TrainingOptions
from secateur.longrange.statistics import LayerFigures

Reason = Literal["settled", "num_dense_train_steps"]


@dataclass(frozen=True)
class Check:
    """The layers' attention at one step.

    Attributes:
        step: training steps done.
        layers: figures of each layer.
        ready: whether each layer is ready.
    """

    step: int
    layers: list[LayerFigures]
    ready: list[bool]


@dataclass
class Switch:
    """The rule of "Exploring Attention Sparsity to Accelerate Transformer Training on GPUs" (Yoon et al. 2024).

    A layer is ready when its attention's skewness is at least `skewness`, and the distance to the attention observed
    before changes by less than `distance` percent. Sparse training begins when every layer is ready at once.

    Attributes:
        skewness: least skewness.
        distance: change in percent that a layer must stay below.
        num_init_steps: there is no switch before this step.
        num_dense_train_steps: there is one at this step in any case; 0: there is no such step.
        history: every check.
        step: of the switch; None before it.
        reason: of the switch; None before it.
    """

    skewness: float
    distance: float
    num_init_steps: int = 0
    num_dense_train_steps: int = 0
    history: list[Check] = field(default_factory=list)
    step: int | None = None
    reason: Reason | None = None

    @classmethod
    def of(cls, training: TrainingOptions) -> "Switch":
        """The rule that a configuration describes."""
        return cls(training.skewness, training.distance, training.num_init_steps, training.num_dense_train_steps)

    def update(self, step: int, layers: Sequence[LayerFigures] = ()) -> bool:
        """Take in one step.

        Args:
            step: training steps done.
            layers: figures of all layers; none at a step without a look at the attention.

        Returns:
            Whether the model switches now. It does so once.
        """
        if self.step is not None:
            return False
        if layers:
            self.history.append(Check(step, list(layers), [self.is_ready(layer) for layer in layers]))
        self.reason = self._reason(step, bool(layers))
        if self.reason is not None:
            self.step = step
        return self.reason is not None

    def is_ready(self, layer: LayerFigures) -> bool:
        """Whether a layer's attention is skewed and has settled. NaN, where nothing was observed before, is no."""
        return layer.skewness >= self.skewness and layer.change_percent < self.distance

    def _reason(self, step: int, checked: bool) -> Reason | None:
        if step < self.num_init_steps:
            return None
        if checked and all(self.history[-1].ready):
            return "settled"
        return "num_dense_train_steps" if 0 < self.num_dense_train_steps <= step else None

    def record(self) -> dict[str, Any]:
        """The rule, its history and the outcome, for JSON: numbers that are not finite become None."""
        record = asdict(self)
        for check in record["history"]:
            check["layers"] = [
                {name: number if math.isfinite(number) else None for name, number in layer.items()}
                for layer in check["layers"]
            ]
        return record

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Switch":
        """What `record` gave."""
        history = [
            Check(
                check["step"],
                [
                    LayerFigures(**{name: math.nan if number is None else number for name, number in layer.items()})
                    for layer in check["layers"]
                ],
                list(check["ready"]),
            )
            for check in record["history"]
        ]
        return cls(**{**record, "history": history})
