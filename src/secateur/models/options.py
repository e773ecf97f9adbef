"""What every command that loads a model lets its user choose."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DType = Literal["auto", "float32", "bfloat16", "float16"]


class LoadOptions(BaseModel):
    """How a model is loaded."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    dtype: DType = Field(
        default="auto",
        description="Number format. auto: the checkpoint's on a GPU; on a CPU bfloat16 where it is fast, else float32.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    device_map: str | None = Field(
        default=None, description="auto: spread a model that is larger than one device (Accelerate)."
    )
    trust_remote_code: bool = Field(default=False, description="Run Python code that comes with the model.")

    def load_arguments(self) -> dict[str, Any]:
        """These options as the keyword arguments of `secateur.load`."""
        return {name: getattr(self, name) for name in LoadOptions.model_fields}
