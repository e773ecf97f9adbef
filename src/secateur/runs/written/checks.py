"""Models that were looked at, planned and exported."""

from typing import Any

from pydantic import ConfigDict, Field

from secateur.runs.written.base import Figures, Share, Written


class Problem(Written):
    """A fault of a model."""

    where: str
    what: str
    severity: str = Field(description="error or warning.")


class TensorHealth(Written):
    """A tensor."""

    name: str
    shape: list[int]
    zeros: Share
    largest: float | None
    nan: int
    infinite: int
    dead_rows: int


class DiagnoseJson(Figures):
    """Whether a model is sound."""

    healthy: bool
    problems: list[Problem]
    tensors: list[TensorHealth]
    loss: float | None
    uniform_loss: float | None = Field(description="Of a model that knows nothing.")
    sparsity: Share
    zeros: str
    rounding: str = Field("", description="Of weights of 4 or 8 bits, which they are and what they take.")


class Phase(Written):
    """A phase of a command on the devices."""

    phase: str
    options: str = Field(description="What the command needs to be given.")
    memory_bytes: float
    fits: bool
    seconds: float | None
    processes: int


class MeasuredPlace(Written):
    """Where, in what and of which widths times were measured."""

    cpu: str
    threads: int
    gpu: str
    engine: str
    version: str
    dtype: str
    context: int
    shape: dict[str, Any] = Field(description="What of the model times depend on.")


class WidthTimesJson(Figures):
    """Milliseconds of the halves of a layer for a decoded token; `prune --target-device` takes it."""

    place: MeasuredPlace
    layers: int = Field(description="Of the timed models.")
    fixed: float = Field(description="Milliseconds beside the halves that can be cut.")
    attention: list[Any] = Field(description="Pairs of GQA groups and milliseconds of a layer.")
    mlp: list[Any] = Field(description="Pairs of MLP channels and milliseconds of a layer.")
    spread: float = Field(description="By how much the median of the turns is above the lower quartile, which counts.")
    seconds: float


class EstimateJson(Figures):
    """Memory and time on paper."""

    model_config = ConfigDict(extra="allow")

    model: str
    family: str
    parameters: int
    dtype: str
    weights_bytes: int
    devices: int
    device: str
    device_memory_bytes: float
    utilisation: str
    phases: list[Phase] = Field(description="None where no devices are named.")
    advice: list[str]
    cuts: list[Any] = Field(description="What has to leave to fit --fit or to meet a target: bits, ratio, command.")


class ExportFallback(Written):
    """Tensors in another number format than llama.cpp's rules give, since its blocks do not divide their rows."""

    wanted: str
    written: str
    columns: list[int] = Field(description="The lengths of their rows.")
    tensors: dict[str, int] = Field(description="Their names without the layer, and how many of each.")
    extra_bytes: int = Field(description="How much more they take than in the format that was wanted.")


class ExportFile(Written):
    """What an export wrote."""

    format: str
    architecture: str
    per_layer: bool
    pre_tokenizer: str | None
    dtype: str
    parameters: int
    parameters_in_file: int
    bytes: int
    tensors: dict[str, int] = Field(description="How many of each number format.")
    bytes_by_format: dict[str, int] = Field(default={}, description="Of the tensors of each number format.")
    fallbacks: list[ExportFallback] = Field(
        default=[], description="Tensors in other formats than llama.cpp's rules give."
    )
    calibration: str | None = Field(default=None, description="The text that the rounding was guided by.")


class ExportJson(ExportFile, Figures):
    """What an export wrote."""
