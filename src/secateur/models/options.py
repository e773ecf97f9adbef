"""What every command that loads a model lets its user choose."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secateur.errors import InputError

LARGEST_SEED = 2**32 - 1  # what every library takes

DType = Literal["auto", "float32", "bfloat16", "float16"]


class LoadOptions(BaseModel):
    """How a model is loaded."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

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


class StreamOptions(LoadOptions):
    """How a model is loaded that may be larger than memory."""

    stream: bool | None = Field(
        default=None,
        description="Leave the weights in their files and have one layer in memory at a time (CPU); by itself where "
        "they would take more than 60 % of memory.",
    )

    def load_arguments(self) -> dict[str, Any]:
        """As `LoadOptions`, with `stream`."""
        return {**super().load_arguments(), "stream": self.stream}


Config = TypeVar("Config", bound=BaseModel)


def configured(kind: type[Config], config: Config | None, options: Mapping[str, Any]) -> Config:
    """A command's configuration with single options on top.

    Args:
        kind: the command's configuration model.
        config: a configuration, or None for the defaults.
        options: fields by name; they win over `config`.

    Raises:
        InputError: an option is unknown or its value is refused.
    """
    given = config.model_dump(exclude_unset=True) if config is not None else {}
    try:
        return kind.model_validate({**given, **options})
    except ValidationError as error:
        raise InputError("; ".join(_complaint(dict(problem)) for problem in error.errors())) from error


def _complaint(problem: dict[str, Any]) -> str:
    location, message = problem["loc"], str(problem["msg"]).removeprefix("Value error, ")
    if not location:
        return message
    return f"{location[0]} {problem['input']}: {message[0].lower()}{message[1:]}"


def no_number(value: object, form: str, example: str) -> object:
    """The value, but for two numbers with a colon between, which YAML takes for one in base 60: `ValueError`."""
    if isinstance(value, int):
        raise ValueError(f"YAML reads {form} without quotes as a number; write '{example}', in quotes")
    return value
