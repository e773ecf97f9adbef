"""What the export can be told."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from secateur.models.masks import ZEROS_HELP, Zeros

Format = Literal["gguf", "nemotron-nas"]
NumberFormat = Literal["f16", "bf16", "q8_0"]


class ExportConfig(BaseModel):
    """How a model is written for another engine."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    format: Format = Field(
        "gguf",
        description="gguf: a file for llama.cpp. nemotron-nas: a directory for vLLM, SGLang and mlx-lm, of a model of "
        "which MLP channels alone are cut, to multiples of 256.",
    )
    dtype: NumberFormat | None = Field(
        None,
        description="Number format of the matrices; unless given f16 in a GGUF file, and in a directory the model's "
        "own. q8_0: 8 bits; rows that its blocks of 32 do not divide stay f16.",
    )
    adapter: str | None = Field(None, description="A LoRA adapter's directory; it is added to the weights first.")
    zeros: Zeros = Field(
        "auto",
        description=f"{ZEROS_HELP}; choose one of the others there, where an adapter is added.",
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")

    @property
    def gguf_dtype(self) -> NumberFormat:
        """The number format of the matrices in a GGUF file."""
        return self.dtype or "f16"

    @model_validator(mode="after")
    def _directory_holds_its_format(self) -> Self:
        if self.format == "nemotron-nas" and self.dtype == "q8_0":
            raise ValueError("q8_0 is for GGUF files; write --format nemotron-nas with --dtype f16 or bf16, or neither")
        return self
