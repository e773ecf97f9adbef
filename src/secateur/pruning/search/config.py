"""What `search` can be told, for the command line, recipes and Python alike."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from secateur.pruning.config import CutLimits


class SearchConfig(CutLimits):
    """Search for how a cut is best spread over the halves of the layers."""

    earlier_names: ClassVar[Mapping[str, str]] = {"measured": "measured_windows"}

    rounds: int = Field(
        default=8,
        ge=1,
        description="How often the cut is made, the cost of each half measured where it stands, and spread anew.",
    )
    measured_windows: int = Field(
        default=16, ge=1, description="Windows of the calibration text, beside those fitted to, to measure the cut on."
    )
    patience: int = Field(
        default=3, ge=1, description="Rounds in a row without a lower KL divergence after which the search ends."
    )
