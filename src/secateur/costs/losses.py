"""Expected losses of cuts of a model, kept from the last time that its units were priced."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur.costs.measure import interpolated
from secateur.errors import OutputError
from secateur.files import expanded
from secateur.files.cache import distrust, private_directory, write_private
from secateur.models import embedded

PART = "losses"
MOST_POINTS = 200
logger = logging.getLogger(__name__)


class ExpectedLosses(BaseModel):
    """What cuts of a model are expected to cost.

    Attributes:
        model: where it was.
        parameters: that it had.
        points: shares of all parameters that leave, each with the expected rise of the loss in nats per token; rising.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    model: str
    parameters: int
    points: list[tuple[float, float]] = Field(min_length=1, max_length=MOST_POINTS)

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if sorted(self.points) != self.points:
            raise ValueError("shares must rise")
        return self

    def at(self, ratio: float) -> float | None:
        """The expected rise when such a share of all parameters leaves; None beyond what is known."""
        points = ((0.0, 0.0), *self.points)
        return interpolated(points, ratio) if ratio <= points[-1][0] else None


def place_of_model(name: str | Path) -> str:
    """What tells a model from others without its weights: where it is."""
    if str(name) == embedded.NAME:
        return str(embedded.embedded_directory().resolve())
    path = expanded(name)
    path = path.parent if path.name == "config.json" else path
    return str(path.resolve()) if path.exists() else str(name)


def keep_losses(model: str | Path, parameters: int, points: Sequence[tuple[float, float]]) -> None:
    """Keep what was found of a model. A cache that cannot be written is told of, and no error."""
    if not points or not str(model):
        return
    place = place_of_model(model)
    found = ExpectedLosses(model=place, parameters=parameters, points=[*points])
    try:
        write_private(_file(place), found.model_dump_json(indent=1).encode())
    except OutputError as error:
        logger.debug("The expected losses are not kept: %s", error)


def kept_losses(place: str, parameters: int) -> ExpectedLosses | None:
    """What is kept of the model at a place; None where nothing is, or of one with other parameters."""
    try:
        file = _file(place)
        if distrust(file) is not None:
            return None
        found = ExpectedLosses.model_validate_json(file.read_bytes())
    except (OSError, OutputError, ValidationError) as error:
        logger.debug("No expected losses: %s", error)
        return None
    return found if (found.model, found.parameters) == (place, parameters) else None


def _file(place: str) -> Path:
    return private_directory(PART) / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"
