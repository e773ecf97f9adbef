"""What a cut was to cost and what it came to, as plans record it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from secateur.costs.config import Targets
from secateur.costs.measure import Bytes, Measure, Units
from secateur.costs.quantities import shown_size, shown_time


@dataclass(frozen=True)
class Reached:
    """A target and what was reached.

    Attributes:
        option: target_memory, target_latency or target_throughput.
        asked: as it was given.
        unit: bytes, or ms for a decoded token.
        target: the most that the cut model was to cost.
        before: what the uncut model costs.
        reached: what the cut one costs.
        cache_bytes: of `reached`, what the cache takes; 0 of a time.
        context: tokens before the last one, where they were given.
        batch: sequences in the cache.
        bits: of the stored weights, where they were given.
        device: where a token is timed; empty of a size.
        engine: what decodes; empty of a size.
    """

    option: str
    asked: str
    unit: str
    target: float
    before: float
    reached: float
    cache_bytes: float = 0.0
    context: int | None = None
    batch: int = 1
    bits: int | None = None
    device: str = ""
    engine: str = ""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False, extra="forbid")

    @classmethod
    def by(cls, measure: Measure | None, targets: Targets, removed: Units) -> Self | None:
        """What a cut that removes so many units of each half comes to; None without a target."""
        option = targets.target_option
        if measure is None or option is None:
            return None
        left = {name: count - removed.get(name, 0) for name, count in measure.units.items()}
        return cls(
            option=option,
            asked=str(getattr(targets, option)),
            unit="ms" if targets.is_timed else "bytes",
            target=measure.target,
            before=measure.whole,
            reached=measure.of_model(left),
            cache_bytes=measure.cache(left) if isinstance(measure, Bytes) else 0.0,
            context=targets.context,
            batch=targets.batch,
            bits=targets.bits,
            device=targets.target_device if targets.is_timed else "",
            engine=targets.engine if targets.is_timed else "",
        )

    @classmethod
    def read(cls, content: object) -> Self | None:
        """What a plan's file says; None where it says nothing. Raises `ValueError` where that is none."""
        if content is None:
            return None
        if not isinstance(content, Mapping):
            raise ValueError("is no object")
        try:
            found: Self = TypeAdapter(cls).validate_python(dict(content))
        except ValidationError as error:
            problem = error.errors()[0]
            raise ValueError(f"is wrong at '{'.'.join(map(str, problem['loc']))}': {problem['msg']}") from error
        return found

    def said(self) -> str:
        """`218.9 MB (of it cache 11.1 MB) from 288.1 MB, 220MB asked`."""
        if self.unit == "ms":
            return (
                f"{shown_time(self.reached)} by the times of widths, from {shown_time(self.before)}; {self.asked} asked"
            )
        cache = f" (of it cache {shown_size(self.cache_bytes)})" if self.cache_bytes else ""
        stored = f", weights stored in {self.bits} bits" if self.bits else ""
        return f"{shown_size(self.reached)}{cache} from {shown_size(self.before)}, {self.asked} asked{stored}"
