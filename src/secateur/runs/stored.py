"""What the JSON files of a run hold, as far as anything of secateur's reads it again.

They are checked when they are read: a report is made of them long after they were written, and by then anything may
have happened to them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secateur.comparison.results import with_all_perplexities
from secateur.errors import OutputError
from secateur.files.input_text import shortened
from secateur.files.json_text import read_json
from secateur.files.option_names import Renamed, by_present_names

LARGEST = 2**53
MOST_LAYERS = 10_000

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Layer = Annotated[int, Field(ge=0, lt=MOST_LAYERS)]
Share = Annotated[float, Field(ge=-1, le=1)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]


class RunFile(Renamed, BaseModel):
    """A part of a file. Types are as JSON has them: the content is used as it stands."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    @classmethod
    def updated(cls, content: Any) -> Any:
        """The content of a file that may be of an earlier version, as this one writes it. Raises `ValueError`."""
        return by_present_names(cls, content) if isinstance(content, dict) else content


class LayerFigures(RunFile):
    """A layer of a plan."""

    layer: Layer
    importance: float | None = None
    num_key_value_heads: Pair
    intermediate_size: Pair
    rate: Share
    attention_rate: Share
    mlp_rate: Share
    frozen: bool


class TargetFigures(RunFile):
    """What a plan was made to meet in the place of a ratio."""

    asked: str
    unit: str
    reached: Annotated[float, Field(ge=0)]


class PlanFile(RunFile):
    """`pruning_plan.json`."""

    ratio: Share
    reached: Share
    parameters_before: Count
    parameters_after: Count
    calibration: str = ""
    calibration_source: str = ""
    calibration_windows: Count = 0
    layers: list[LayerFigures] = Field(min_length=1, max_length=MOST_LAYERS)
    settings: dict[str, Any] = {}
    target: TargetFigures | None = None


class ImportanceFile(RunFile):
    """`layer_importance.json`."""

    earlier_names: ClassVar[Mapping[str, str]] = {"samples": "windows"}

    method: str
    importance: list[float] = Field(min_length=1, max_length=MOST_LAYERS)
    unit: str = ""
    corpus: str = ""
    windows: Count = 0
    seqlen: Count = 0
    model: str = ""


class MatrixFigures(RunFile):
    """A matrix with zeros."""

    layer: Layer
    name: str
    sparsity: Annotated[float, Field(ge=0, le=1)]
    norm_lost: Annotated[float, Field(ge=0, le=1)] | None = None
    pattern: str | None = None


class ZerosFile(RunFile):
    """`sparsity.json`."""

    matrices: list[MatrixFigures] = Field(min_length=1)
    asked: Annotated[float, Field(ge=0, le=1)]
    reached: Annotated[float, Field(ge=0, le=1)]
    zeros: Count
    calibration: str
    calibration_source: str
    calibration_windows: Count


class RoundingSettings(RunFile):
    """What of the options of `quantize` is looked at."""

    seqlen: Count


class RoundingFile(RunFile):
    """`quantization.json`."""

    bytes_before: Count
    bytes_after: Count
    calibration: str
    calibration_source: str
    calibration_windows: Count
    settings: RoundingSettings


class ScoreFigures(RunFile):
    """A task's score."""

    metrics: dict[str, float | None]
    stderr: dict[str, float | None]
    n: Count
    n_shot: Count
    prompts: str


class SampleFigures(RunFile):
    """A continued text."""

    prompt: str
    continuation: str
    chat: bool = False


class EvaluationFigures(RunFile):
    """A model's figures."""

    name: str
    parameters: Count
    perplexity: dict[str, Annotated[float, Field(gt=0)] | None] = Field(min_length=1)
    windows: dict[str, Count]
    corpora: dict[str, str]
    sources: dict[str, str]
    seqlen: Count
    stride: Count | None = None
    sparsity: Annotated[float, Field(ge=0, le=1)]
    size_bytes: Count | None = None
    tasks: dict[str, ScoreFigures] = {}


class SpeedFigures(RunFile):
    """A model's speed."""

    prefill_tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    decode_tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    peak_memory_bytes: Count | None = None


class NamedText(RunFile):
    """A text that perplexity was measured on."""

    name: str
    source: str
    amount: str
    description: str


class EvaluationFile(RunFile):
    """`evaluation.json` of a stage."""

    evaluation: EvaluationFigures
    texts: list[NamedText]
    samples: list[SampleFigures]


class TextFigures(RunFile):
    """A text behind a figure."""

    figure: str
    role: str
    source: str
    amount: str
    description: str
    name: str = ""


class LossFigures(RunFile):
    """An entry of a training's history."""

    earlier_names: ClassVar[Mapping[str, str]] = {"eval_loss": "eval_cross_entropy"}

    step: Count
    loss: float | None = None
    cross_entropy: float | None = None
    kl_divergence: float | None = None
    eval_cross_entropy: float | None = None
    eval_kl_divergence: float | None = None


class TrainingSettings(RunFile):
    """Of a training, those that the report names."""

    teacher: str | None


class TrainingFile(RunFile):
    """`recovery.json`."""

    history: list[LossFigures]
    corpus: str
    source: str
    tokens: Count
    settings: TrainingSettings


class ModelFigures(SpeedFigures):
    """A model of `metrics.json`."""

    name: str
    parameters: Count
    perplexity: dict[str, Annotated[float, Field(gt=0)] | None] = Field(min_length=1)
    windows: dict[str, Count] = {}
    corpora: dict[str, str] = {}
    seqlen: Count = 0
    stride: Count | None = None
    sparsity: Annotated[float, Field(ge=0, le=1)] = 0.0
    dtype: str = ""
    engine: str = "Transformers"
    size_bytes: Count | None = None
    recovers: str | None = None
    tasks: dict[str, ScoreFigures] = {}
    samples: list[SampleFigures] = []


class CommandLine(RunFile):
    """A command, and what it does."""

    purpose: str
    command: str


class MetricsFile(RunFile):
    """`metrics.json`."""

    @classmethod
    def updated(cls, content: Any) -> Any:
        """With perplexity by text, which stood in `perplexities` beside a number."""
        if isinstance(content, dict) and isinstance(content.get("models"), list):
            return {**content, "models": [with_all_perplexities(model) for model in content["models"]]}
        return content

    name: str
    model: str
    seed: int
    models: list[ModelFigures] = Field(min_length=1)
    sample_tokens: Count
    texts: list[TextFigures]
    training: TrainingFile | None = None
    commands: list[CommandLine]
    versions: dict[str, Any]
    machine: dict[str, Any]
    seconds: dict[str, Seconds]


def read_run_file(file: Path, kind: type[RunFile] | None = None, advice: str = "") -> Any:
    """The content of a JSON file that a stage has written.

    Args:
        file: where it is.
        kind: what it holds; None: only that it is JSON is checked.
        advice: what to do where it is damaged; by default, to delete its directory and run the same command again.

    Raises:
        OutputError: it is damaged or gone.
    """
    advice = advice or f"; delete {file.parent}, and the same command makes it again"
    if not file.is_file():
        raise OutputError(f"{file} is missing{advice}")
    content = read_json(file, "is damaged", OutputError, advice)
    try:
        if kind is not None:
            content = kind.updated(content)
            kind.model_validate(content)
            _require_texts(content)
    except ValidationError as error:
        problem = error.errors()[0]
        place = shortened(".".join(map(str, problem["loc"])))
        raise OutputError(f"{file} is damaged: {place}: {problem['msg']}{advice}") from error
    except ValueError as error:
        raise OutputError(f"{file} is damaged: {error}{advice}") from error
    return content


def require_same_layers(
    plan: Mapping[str, Any] | None, importance: Mapping[str, Any] | None, file: Path, advice: str = ""
) -> None:
    """Raise `OutputError` where scores, of `file`, are not those of a plan's layers."""
    if plan is None or importance is None or len(plan["layers"]) == len(importance["importance"]):
        return
    advice = advice or f"; delete {file.parent}, and the same command makes it again"
    raise OutputError(
        f"{file} is damaged: it scores {len(importance['importance'])} layers and the plan has {len(plan['layers'])}"
        f"{advice}"
    )


def _require_texts(content: Any) -> None:
    """Raise `ValueError` where a model's figures name a text and do not say how it was measured."""
    for figures in (content.get("evaluation"), *(content.get("models") or ())):
        for text in (figures or {}).get("corpora") or ():
            if text not in (figures.get("windows") or {}) or not figures.get("seqlen"):
                raise ValueError(f"windows or seqlen of the text {text[:40]!r} are missing")
