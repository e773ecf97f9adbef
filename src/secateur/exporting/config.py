"""What the export can be told."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from secateur.models.masks import ZEROS_HELP, Zeros

Format = Literal["f16", "bf16", "q8_0"]


class ExportConfig(BaseModel):
    """How a model is written as GGUF."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    dtype: Format = Field(
        "f16",
        description="Number format of the matrices. q8_0: 8 bits; rows that its blocks of 32 do not divide stay f16.",
    )
    adapter: str | None = Field(None, description="A LoRA adapter's directory; it is added to the weights first.")
    zeros: Zeros = Field(
        "auto",
        description=f"{ZEROS_HELP}; choose one of the others there, where an adapter is added.",
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")
