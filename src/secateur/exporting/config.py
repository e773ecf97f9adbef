"""What the export can be told."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Format = Literal["f16", "bf16", "q8_0"]


class ExportConfig(BaseModel):
    """How a model is written as GGUF."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    dtype: Format = Field(
        "f16",
        description="Number format of the matrices. q8_0: 8 bits; rows that its blocks of 32 do not divide stay f16.",
    )
    adapter: str | None = Field(None, description="A LoRA adapter's directory; it is added to the weights first.")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")
