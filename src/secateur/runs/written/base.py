"""What all written JSON has in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
ByText = dict[str, Annotated[float, Field(gt=0)] | None]
Pair = Annotated[list[int], Field(min_length=2, max_length=2)]


class Written(BaseModel):
    """A JSON object with these keys and no others."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Figures(Written):
    """What `--json` writes begins with the version."""

    written_by: str = Field(alias="written by", description="`secateur` and its version.")
