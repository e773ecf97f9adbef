"""What an export has written."""

from dataclasses import asdict, dataclass
from typing import Any

from secateur.exporting.config import Format
from secateur.showing import Shown

OPENS_IN: dict[Format, str] = {
    "gguf": "Opens in llama.cpp and the programs that are built on it",
    "nemotron-nas": "Opens in vLLM, SGLang and mlx-lm, each with trust_remote_code",
}


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

    @property
    def opens_in(self) -> str:
        """One line that says which engines open what was written."""
        return OPENS_IN[self.format]

    def headline(self) -> str:
        return (
            f"{self.format}, {self.architecture}, {self.parameters:,} parameters in {self.dtype}, {self.bytes:,} bytes"
        )

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [{"number format": name, "tensors": count} for name, count in self.tensors.items()]

    def to_dict(self) -> dict[str, Any]:
        """The figures for `--json`."""
        return asdict(self)
