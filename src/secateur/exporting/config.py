"""What the export can be told."""

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from secateur.data import DataName, DataOptions
from secateur.files.option_names import Renamed
from secateur.models.masks import ZEROS_HELP, Zeros
from secateur.models.options import LARGEST_SEED

Format = Literal["gguf", "nemotron-nas"]
NumberFormat = Literal[
    "f32",
    "f16",
    "bf16",
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q5_k_s",
    "q5_0",
    "q4_k_m",
    "q4_k_s",
    "q4_0",
    "q3_k_l",
    "q3_k_m",
    "q2_k",
]
WHOLE: tuple[NumberFormat, ...] = ("f32", "f16", "bf16", "q8_0")  # rounded the same whatever the inputs are
IN_DIRECTORIES: tuple[NumberFormat, ...] = ("f16", "bf16")


class ExportConfig(Renamed, DataOptions):
    """How a model is written for another engine."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)
    earlier_names: ClassVar[Mapping[str, str]] = {"calibration": "data", "samples": "windows"}

    format: Format = Field(
        "gguf",
        description="gguf: a file for llama.cpp. nemotron-nas: a directory for vLLM, SGLang and mlx-lm, of a model of "
        "which MLP channels alone are cut, to multiples of 256.",
    )
    dtype: NumberFormat | None = Field(
        None,
        description="Number format of the matrices; unless given f16 in a GGUF file, and in a directory the model's "
        "own. f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q5_0, q4_k_m, q4_k_s, q4_0, q3_k_l, q3_k_m or q2_k: "
        "those with a k or with 4 or 5 bits are llama.cpp's, with its choice for each matrix "
        "(extra: gguf). Rows that a format's blocks do not divide get another, which is said.",
    )
    data: DataName | None = Field(
        default=None,
        description="Text that says how much each input of a matrix weighs when that is rounded to less than 8 bits: a "
        "named corpus, a file, or several with shares. Without one all weigh the same.",
    )
    windows: int = Field(default=64, ge=1, description="Windows of that text.")
    seqlen: int = Field(default=512, ge=2, description="Tokens in a window.")
    batch_size: int = Field(default=8, ge=1, description="Windows that go through the model at once.")
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed for the choice of windows.")
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

    @field_validator("dtype", mode="before")
    @classmethod
    def _is_known(cls, value: Any) -> Any:
        """The name in small letters; `ValueError` with the nearest one where there is none of that name."""
        if not isinstance(value, str) or value.lower() in get_args(NumberFormat):
            return value.lower() if isinstance(value, str) else value
        near = difflib.get_close_matches(value.lower(), get_args(NumberFormat), n=1, cutoff=0.5)
        meant = f"did you mean {near[0]}? There" if near else "there"
        raise ValueError(f"there is no such number format; {meant} are {', '.join(get_args(NumberFormat))}")

    @model_validator(mode="after")
    def _directory_holds_its_format(self) -> Self:
        if self.format == "nemotron-nas" and self.dtype not in (None, *IN_DIRECTORIES):
            raise ValueError(
                f"{self.dtype} is for GGUF files; write --format nemotron-nas with --dtype f16 or bf16, or neither"
            )
        return self

    @model_validator(mode="after")
    def _text_is_of_use(self) -> Self:
        if self.data is not None and (self.format != "gguf" or self.gguf_dtype in WHOLE):
            kept = "a directory" if self.format != "gguf" else self.gguf_dtype
            raise ValueError(
                f"--data has no effect in {kept}: a text guides the rounding to less than 8 bits, --dtype q4_k_m for "
                "example; leave it out, or choose such a format"
            )
        return self
