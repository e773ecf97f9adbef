"""Times of widths: what the halves of a model's layers take for a decoded token on one machine, in one engine."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from transformers import PreTrainedModel

from secateur.console import counted
from secateur.costs.config import Engine
from secateur.costs.measure import Milliseconds
from secateur.environment import machine
from secateur.errors import InputError, OutputError
from secateur.files.cache import distrust, private_directory, write_private
from secateur.files.json_text import read_json
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Part
from secateur.models.widths import head_dim_of

PART = "speeds"
MOST_POINTS = 1000
LONGEST = 1e9  # milliseconds
logger = logging.getLogger(__name__)


class Place(BaseModel):
    """Where, in what and of which widths times were measured."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    cpu: str
    threads: int = Field(ge=1)
    gpu: str
    engine: Engine
    version: str
    dtype: str
    context: int = Field(ge=1)
    shape: dict[str, int | str]

    @property
    def digest(self) -> str:
        """A name for a file."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:32]

    @property
    def named(self) -> str:
        """The machine and the engine in words."""
        where = self.gpu if self.gpu != "none" else f"{self.cpu}, {counted(self.threads, 'thread')}"
        return f"{self.engine} {self.version} ({self.dtype}) on {where}"


class WidthTimes(BaseModel):
    """What `measure-widths` writes.

    Attributes:
        place: where they were measured.
        layers: how many layers the timed models had.
        fixed: milliseconds for a token beside the halves that can be cut.
        attention: milliseconds of a layer's attention by its GQA groups, rising.
        mlp: milliseconds of a layer's MLP by its channels, rising.
        spread: by how much the turns' median is above their lower quartile, which counts, as a share.
        seconds: what the measuring took.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    place: Place
    layers: int = Field(ge=1)
    fixed: float = Field(ge=0, le=LONGEST)
    attention: list[tuple[int, float]] = Field(max_length=MOST_POINTS)
    mlp: list[tuple[int, float]] = Field(max_length=MOST_POINTS)
    spread: float = Field(ge=0)
    seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _rise(self) -> Self:
        for curve in (self.attention, self.mlp):
            numbers = [[point[axis] for point in curve] for axis in (0, 1)]
            if any(min(column, default=0) < 0 or sorted(column) != column for column in numbers):
                raise ValueError("widths and times must rise")
            if len({*numbers[0]}) < len(curve):
                raise ValueError("a width stands there twice")
            if any(time > LONGEST for _, time in curve):
                raise ValueError(f"a time is longer than {LONGEST:g} ms")
        return self

    def measure(self, model: PreTrainedModel, target: float, asked: str) -> Milliseconds:
        """A model's times, half by half: what cannot be cut is in what is fixed."""
        adapter = adapter_of(model)
        units: dict[tuple[int, Part], int] = {}
        curves: dict[tuple[int, Part], tuple[tuple[float, float], ...]] = {}
        for index, layer in enumerate(adapter.layers(model)):
            for part in PARTS:
                half = adapter.half(layer, part)
                units[index, part] = half.units
                points: Sequence[tuple[int, float]] = getattr(self, part) if half.names.divisible else []
                curves[index, part] = tuple((float(width), time) for width, time in points)
        return Milliseconds(units=units, fixed=self.fixed, target=target, asked=asked, curves=curves)


def shape_of_times(model: PreTrainedModel) -> dict[str, int | str]:
    """What of a model its times depend on, beside the widths of its layers as a cut has left them."""
    adapter, config = adapter_of(model), model.config
    halves = [adapter.half(layer, part) for layer in adapter.layers(model) for part in PARTS]
    fixed = sum(not half.names.divisible for half in halves)
    ratio = next(half.heads // half.key_value_heads for half in halves if half.heads)
    return {
        "family": adapter.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(halves) // 2,
        "head_dim": head_dim_of(model),
        "heads_per_group": ratio,
        "groups": max(half.units for half in halves if half.part == "attention"),
        "channels": max(half.units for half in halves if half.part == "mlp"),
        "fixed_halves": fixed,
    }


def place_of(
    shape: Mapping[str, int | str], engine: Engine, version: str, dtype: str, context: int, on_gpu: bool
) -> Place:
    """This machine, with what is measured on it."""
    found = machine()
    return Place(
        cpu=str(found["cpu"]),
        threads=int(found["threads"]),
        gpu=str(found["gpu"]) if on_gpu else "none",
        engine=engine,
        version=version,
        dtype=dtype,
        context=context,
        shape=dict(shape),
    )


def kept_times(place: Place) -> WidthTimes | None:
    """The times that this machine's cache has for a place; None where it has none, or others."""
    file = private_directory(PART) / f"{place.digest}.json"
    try:
        reason = distrust(file)
    except FileNotFoundError:
        return None
    if reason is not None:
        logger.warning("%s is not used: %s", file, reason)
        return None
    try:
        found = read_times(file)
    except InputError as error:
        logger.warning("Measured anew: %s", error)
        return None
    if found.place != place:
        logger.warning("Measured anew: %s has the times of %s", file, found.place.named)
        return None
    return found


def keep_times(times: WidthTimes) -> Path | None:
    """Put times into the cache. Returns the file; None where the cache cannot be written."""
    try:
        file = private_directory(PART) / f"{times.place.digest}.json"
        write_private(file, times.model_dump_json(indent=1).encode())
    except OutputError as error:
        logger.warning("The times are not kept: %s", error)
        return None
    return file


def read_times(file: str | Path) -> WidthTimes:
    """The times of widths in a file of `measure-widths`. Raises `InputError` where it is none."""
    what = "is no file of secateur measure-widths"
    content: Any = read_json(file, what)
    if isinstance(content, dict):
        content.pop("written by", None)
    try:
        return WidthTimes.model_validate_json(json.dumps(content))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        reason = str(problem["msg"]).removeprefix("Value error, ")
        raise InputError(f"{file} {what}: {place + ': ' if place else ''}{reason}") from error


def require_same_shape(times: WidthTimes, model: PreTrainedModel, source: str) -> None:
    """Check that times are of models like this one. Raises `InputError`."""
    shape = shape_of_times(model)
    for name in dict.fromkeys([*times.place.shape, *shape]):
        value = times.place.shape.get(name, "not said")
        # A cut model has fewer of these, in the same places.
        cut = name in ("groups", "channels", "num_hidden_layers") and isinstance(value, int)
        if shape.get(name) != value and not (cut and int(shape[name]) <= int(value)):
            raise InputError(
                f"{source} has the times of another model: its {name} is {value}, this one's {shape.get(name)}; run "
                "secateur measure-widths for this one"
            )
    adapter = adapter_of(model)
    for part in PARTS:
        cut = any(adapter.half(layer, part).names.divisible for layer in adapter.layers(model))
        if cut and not getattr(times, part):
            raise InputError(f"{source} has no times of the {part} of layers; run secateur measure-widths anew")
