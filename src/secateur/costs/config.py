"""What a model is to cost, in the place of how much of it is to leave."""

from typing import Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from secateur.console import flag
from secateur.costs.quantities import milliseconds_of, rate_of, size_of
from secateur.files import expanded

Engine = Literal["transformers", "llama.cpp"]
TargetOption = Literal["target_memory", "target_latency", "target_throughput"]

THIS = "this"
TARGETS: tuple[TargetOption, ...] = ("target_memory", "target_latency", "target_throughput")
READERS = {"target_memory": size_of, "target_latency": milliseconds_of, "target_throughput": rate_of}
TIMED: tuple[TargetOption, ...] = ("target_latency", "target_throughput")
# What says how a target is counted, and for which targets.
COUNTED: dict[str, tuple[TargetOption, ...]] = {
    "context": TARGETS,
    "batch": ("target_memory",),
    "bits": TARGETS,
    "target_device": TIMED,
    "engine": TIMED,
}
MEMORY_CONTEXT = 4096  # tokens
TIMED_CONTEXT = 512
TOLERANCE = 0.03  # of a target, which is met from below
STORED_BITS = (16, 8, 4)


class Targets(BaseModel):
    """A target in the place of the ratio."""

    target_memory: str | None = Field(
        default=None,
        description="What the cut model may take, 6GB or 900MB: its weights as they will be stored, and the KV cache "
        "of --context tokens.",
    )
    target_latency: str | None = Field(
        default=None, description="What the cut model may take for a decoded token, 25ms for example."
    )
    target_throughput: str | None = Field(
        default=None, description="How many tokens a second the cut model is to decode, one sequence at a time."
    )
    context: int | None = Field(
        default=None,
        ge=1,
        le=2**31,
        description="Tokens before the last: in the cache of --target-memory 4096, before the token that is timed 512 "
        "unless given, or the model's most where that is less.",
    )
    batch: int = Field(default=1, ge=1, le=10**6, description="Sequences that the cache of --target-memory holds.")
    bits: int | None = Field(
        default=None,
        description="Bits in which the projections will be stored: 16, 8 or 4, the latter two with a scale for each "
        "128, 64 or 32 weights; the rest in 16. Unless given, all as the model's own files are, or as --quantize says.",
    )
    target_device: str = Field(
        default=THIS,
        description="Where a token is timed: this machine, a device that secateur plan knows (by its bandwidth), or "
        "the file of secateur measure-widths from another machine.",
    )
    engine: Engine = Field(default="transformers", description="What decodes.")

    @field_validator(*TARGETS, mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("target_memory")
    @classmethod
    def _is_a_size(cls, value: str | None) -> str | None:
        return _read(value, "target_memory")

    @field_validator("target_latency")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        return _read(value, "target_latency")

    @field_validator("target_throughput")
    @classmethod
    def _is_a_rate(cls, value: str | None) -> str | None:
        return _read(value, "target_throughput")

    @field_validator("bits")
    @classmethod
    def _can_be_stored(cls, value: int | None) -> int | None:
        if value is not None and value not in STORED_BITS:
            raise ValueError(f"weights are stored in {', '.join(map(str, STORED_BITS))} bits")
        return value

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given: list[str] = [name for name in TARGETS if getattr(self, name) is not None]
        if "ratio" in self.model_fields_set:
            given.insert(0, "ratio")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(map(flag, given[:2]))} both say how much is cut; give one")
        return self

    @property
    def target_option(self) -> TargetOption | None:
        """Which target is given; None where the ratio counts."""
        return next((name for name in TARGETS if getattr(self, name) is not None), None)

    @property
    def is_timed(self) -> bool:
        """Whether the target is a time."""
        return self.target_option in TIMED

    @property
    def times_file(self) -> str | None:
        """The file of `measure-widths` that a time is looked up in; None where there is none."""
        name = self.target_device.strip()
        is_file = name != THIS and (name.endswith(".json") or expanded(name).is_file())
        return name if self.is_timed and is_file else None

    @property
    def target_text(self) -> str:
        """The target as it was given: `--target-memory 6GB`."""
        option = self.target_option
        return "" if option is None else f"{flag(option)} {str(getattr(self, option)).strip().replace(' ', '')}"

    @property
    def wanted(self) -> float:
        """The target in bytes, or in milliseconds for a token."""
        option = self.target_option
        if option is None:
            raise ValueError("no target is given")
        value = READERS[option](getattr(self, option))
        return 1000 / value if option == "target_throughput" else value


def _read(value: str | None, name: str) -> str | None:
    if value is not None:
        READERS[name](value)
    return value
