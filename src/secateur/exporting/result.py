"""What an export has written."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from secateur.exporting.config import Format
from secateur.showing import Shown

OPENS_IN: dict[Format, str] = {
    "gguf": "Opens in llama.cpp and the programs that are built on it",
    "nemotron-nas": "Opens in vLLM, SGLang and mlx-lm, each with trust_remote_code",
}


@dataclass(frozen=True)
class Fallback:
    """Tensors whose rows the blocks of a format do not divide.

    Attributes:
        wanted: the format that llama.cpp's rules give them.
        written: the one that they have.
        columns: the lengths of their rows.
        tensors: their names without the layer, and how many of each.
        extra_bytes: how much more they take than in the format that was wanted.
    """

    wanted: str
    written: str
    columns: list[int]
    tensors: dict[str, int]
    extra_bytes: int


@dataclass(frozen=True, repr=False)
class ExportResult(Shown):
    """What was written.

    Attributes:
        format: which of the formats.
        architecture: llama.cpp's graph that runs it, or the class of the engines that read the directory.
        per_layer: whether the layers' widths stand there one by one.
        pre_tokenizer: llama.cpp's name for how text is split; None where the tokenizer is Transformers' own.
        dtype: the number format of the matrices.
        parameters: of the model.
        parameters_in_file: more than that where layers were filled up with zeros.
        bytes: size of the weights, of a GGUF file with all that is in it.
        tensors: how many of each number format.
        bytes_by_format: of the tensors of each number format.
        fallbacks: tensors that have another format than llama.cpp's rules give, since their rows do not fit it.
        calibration: the text that the rounding was guided by, if any.
    """

    format: Format
    architecture: str
    per_layer: bool
    pre_tokenizer: str | None
    dtype: str
    parameters: int
    parameters_in_file: int
    bytes: int
    tensors: dict[str, int]
    bytes_by_format: dict[str, int] = field(default_factory=dict)
    fallbacks: Sequence[Fallback] = ()
    calibration: str | None = None

    @property
    def opens_in(self) -> str:
        """One line that says which engines open what was written."""
        return OPENS_IN[self.format]

    def headline(self) -> str:
        return (
            f"{self.format}, {self.architecture}, {self.parameters:,} parameters in {self.dtype}, {self.bytes:,} bytes"
        )

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [
            {"number format": name, "tensors": count, "bytes": self.bytes_by_format.get(name)}
            for name, count in self.tensors.items()
        ]

    @property
    def fallback_line(self) -> str | None:
        """One line that says which tensors have another format than llama.cpp's rules give, and what that costs."""
        if not self.fallbacks:
            return None
        parts = []
        for each in self.fallbacks:
            names = ", ".join(f"{count} {name}" for name, count in each.tensors.items())
            rows = "/".join(map(str, each.columns[:3])) + ("/…" if len(each.columns) > 3 else "")
            parts.append(f"{names} in {each.written} instead of {each.wanted} (rows of {rows})")
        extra = sum(each.extra_bytes for each in self.fallbacks)
        return (
            f"Rows that a format's blocks do not divide: {'; '.join(parts)}. That takes {extra / 1e6:,.2f} MB more "
            f"({extra / self.bytes:.1%} of the file)"
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures for `--json`."""
        return asdict(self)
