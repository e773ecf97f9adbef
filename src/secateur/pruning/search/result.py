"""What a search has found: the cuts it made, and which of them was best."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from secateur.pruning.plan import PruningPlan
from secateur.showing import Drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Round:
    """One cut that was made and measured.

    Attributes:
        divergence: KL divergence from the uncut model, in nats per token, on text that the cut was not fitted to.
        taken: for each layer, the steps taken by its attention and its MLP; None where it must not be cut.
        scales: for each layer and half, the logarithm of how much more than expected it costs to narrow it, averaged
            over the rounds so far.
        following: as `taken`, for the next round.
        attention_share: share of the removed parameters that attention bears.
        seconds: what the round took.
    """

    divergence: float
    taken: list[list[int | None]]
    scales: list[list[float | None]]
    following: list[list[int | None]]
    attention_share: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(repr=False)
class SearchResult(Drawn):
    """What a search found.

    Attributes:
        plan: the best cut, for `prune --plan`.
        rounds: all cuts made, the first of them the one that `prune` makes by itself.
        seconds: time by phase.
        peak_memory_bytes: the most memory used: of the GPU, or of the process on a CPU.
    """

    plan: PruningPlan
    rounds: list[Round]
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    def headline(self) -> str:
        first, best = self.rounds[0].divergence, self.rounds[self.best].divergence
        found = f"round {self.best + 1} of {len(self.rounds)}: KL divergence {best:.4f}, prune's own {first:.4f}"
        return f"{self.plan.headline()}; {found}"

    def rows_of_figures(self) -> list[dict[str, Any]]:
        names = ("divergence", "attention_share", "seconds")
        return [
            {"round": number, **{name: getattr(done, name) for name in names}, "best": number == self.best + 1}
            for number, done in enumerate(self.rounds, start=1)
        ]

    def plot(self) -> "Figure":
        from secateur.report import figure_of, search_plot

        return figure_of(search_plot, self.to_dict())

    @property
    def best(self) -> int:
        """Which round the plan is of, from 0."""
        return best_of(self.rounds)

    def to_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "rounds": [done.to_dict() for done in self.rounds],
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def best_of(rounds: Sequence[Round]) -> int:
    return min(range(len(rounds)), key=lambda number: rounds[number].divergence, default=0)
