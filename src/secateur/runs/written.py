"""The JSON files that secateur writes, as pydantic models: what `docs/json.md` and its JSON Schema are made of.

`stored` has what of a run's files is read again, and takes those of earlier versions. Here stands all that this version
writes and others may read; the tests hold files of real commands against it.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
ByText = dict[str, Annotated[float, Field(gt=0)] | None]
Pair = Annotated[list[int], Field(min_length=2, max_length=2)]


class Written(BaseModel):
    """A JSON object with these keys and no others."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Figures(Written):
    """What `--json` writes begins with the version."""

    written_by: str = Field(alias="written by", description="`secateur` and its version.")


class Score(Written):
    """A task's score."""

    metrics: dict[str, float | None] = Field(description="By lm-eval's name: `acc`, `acc_norm`.")
    stderr: dict[str, float | None] = Field(description="Standard errors of these.")
    n: int = Field(description="Questions.")
    n_shot: int = Field(description="Solved examples before each.")
    prompts: str = Field(description="Fingerprint of the questions as they were put.")


class Measured(Written):
    """What perplexity was measured on, and what it is."""

    name: str
    parameters: int
    family: str = Field(description="What a cut leaves of an architecture: kind, hidden size, vocabulary.")
    perplexity: ByText = Field(description="By the text's name; null where it is not finite.")
    windows: dict[str, int] = Field(description="How many token windows, by the text's name.")
    corpora: dict[str, str] = Field(description="The texts in words, by name.")
    sources: dict[str, str] = Field(description="Their identities, by name: one of a file's is its hash.")
    seqlen: int | None = Field(description="Tokens in a window.")
    stride: int | None = Field(description="Tokens from one window to the next; null: seqlen.")
    dtype: str | None = Field(description="Number format of the weights.")
    sparsity: Share = Field(description="Share of zeros in the projections.")
    size_bytes: int | None = Field(description="Weights on disk.")
    prefill_tokens_per_second: float | None = Field(description="Prompt tokens read, batch size 1.")
    decode_tokens_per_second: float | None = Field(description="New tokens written one by one, batch size 1.")
    tasks: dict[str, Score] = Field(description="By the task's name.")


class Evaluated(Measured):
    """A model as `evaluate` measured it."""

    device: str
    peak_memory_bytes: int | None = Field(description="While generating.")
    memory_measured: str | None = Field(description="What that is: GPU allocations, or the process's resident set.")


class Continued(Written):
    """A beginning of a text and how a model goes on."""

    prompt: str
    continuation: str


class EvaluateJson(Figures):
    """Models side by side."""

    models: list[Evaluated] = Field(min_length=1, description="The first is the baseline.")


class ComparedModel(Measured):
    """A model of a comparison."""

    recovers: str | None = Field(description="The row that this model was trained from.")
    values: dict[str, Any] = Field(description="Of a sweep's keys.")


class ComparisonFile(Written):
    """Models of several results side by side."""

    models: list[ComparedModel] = Field(min_length=1)
    warnings: list[str] = Field(description="What was not measured alike.")
    results: dict[str, str] = Field(description="Where the rows come from: paths by label.")
    swept: list[str] = Field(description="Keys of the recipe.")


class CompareJson(ComparisonFile, Figures):
    """As `comparison.json`."""


class RunModel(Evaluated):
    """A model of a run."""

    samples: list[Continued] = Field(description="Texts that it was made to continue.")
    recovers: str | None = Field(None, description="The model that it was trained from.")


class Text(Written):
    """A text behind a figure."""

    figure: str
    role: str = Field(description="evaluation, task, speed, importance, calibration, zeros or training.")
    source: str
    amount: str
    description: str
    name: str = ""


class HistoryEntry(Written):
    """A step of a training at which something was logged; step 0 is before it."""

    step: int
    epoch: float | None = None
    loss: float | None = Field(None, description="What is trained on: cross entropy with the teacher's part.")
    cross_entropy: float | None = Field(None, description="Of training, nats per token.")
    kl_divergence: float | None = Field(None, description="From the teacher, in training.")
    learning_rate: float | None = None
    grad_norm: float | None = None
    eval_cross_entropy: float | None = Field(None, description="Of validation.")
    eval_kl_divergence: float | None = Field(None, description="From the teacher, in validation.")
    perplexity: ByText = Field({}, description="Of the texts of extra_eval, by name.")


class Training(Written):
    """A training."""

    history: list[HistoryEntry]
    steps: int
    tokens: int = Field(description="Trained on, each epoch counted.")
    sequences: int = Field(description="Different samples (windows or examples) that the steps have seen.")
    sequences_given: int | None = Field(description="How many the data has.")
    seconds: float
    tokens_per_second: float
    best_step: int | None = Field(description="The step whose weights these are.")
    micro_batch_size: int
    method: str
    sparsity: Share | None = Field(description="Share of zeros; null for a dense model.")
    corpus: str = Field(description="What was trained on, in words.")
    source: str


class RecoverJson(Training, Figures):
    """A training."""


class RecoveryFile(Training):
    """A training with its settings."""

    settings: dict[str, Any] = Field(description="Options of `recover`.")


class Command(Written):
    """A command, and what it does."""

    purpose: str
    command: str


class MetricsJson(Written):
    """All results of a run."""

    name: str
    model: str
    seed: int
    models: list[RunModel] = Field(min_length=1, description="original, pruned, sparse, recovered.")
    sample_tokens: int
    texts: list[Text]
    training: RecoveryFile | None
    commands: list[Command]
    versions: dict[str, str]
    machine: dict[str, Any]
    seconds: dict[str, float] = Field(description="By stage.")


class RunJson(MetricsJson, Figures):
    """As `metrics.json`."""


class EvaluatedText(Written):
    """A text that a stage was measured on."""

    name: str
    source: str
    amount: str
    description: str


class EvaluationJson(Written):
    """A stage's model, measured."""

    evaluation: Evaluated
    texts: list[EvaluatedText]
    samples: list[Continued]


class PruneJson(Figures):
    """What a cut removed."""

    parameters_before: int
    parameters_after: int
    ratio: Share = Field(description="Asked for.")
    reached: Share
    seconds: dict[str, float] = Field(description="By phase.")
    peak_memory_bytes: int


class PlanLayer(Written):
    """A layer; numbers before and after the cut."""

    layer: int
    num_attention_heads: Pair
    num_key_value_heads: Pair
    intermediate_size: Pair
    removed_groups: list[int]
    removed_channels: list[int] | list[list[int]] = Field(description="Of a mixture of experts, by expert.")
    rate: Share = Field(description="Share of the layer's parameters that leave.")
    attention_rate: Share
    mlp_rate: Share
    frozen: bool
    importance: float | None


class PlanJson(Written):
    """What is cut where; `prune --plan` takes it."""

    ratio: Share
    reached: Share
    parameters_before: int
    parameters_after: int
    head_dim: int
    query_heads_per_group: int
    calibration: str = Field(description="The text of `data`, in words.")
    calibration_windows: int
    calibration_source: str
    settings: dict[str, Any] = Field(description="Options of `prune` or `search`.")
    layers: list[PlanLayer] = Field(min_length=1)


class ImportanceJson(Written):
    """A score for each layer; `--layer-importance-file` takes it."""

    method: str
    importance: list[float] = Field(min_length=1)
    unit: str
    corpus: str
    windows: int
    seqlen: int
    model: str


class SparsifyJson(Figures):
    """What became zero."""

    zeros: int
    asked: Share
    reached: Share
    seconds: dict[str, float] = Field(description="By phase.")
    peak_memory_bytes: int


class Matrix(Written):
    """A projection with zeros."""

    layer: int
    name: str
    shape: Pair
    zeros: int
    sparsity: Share
    pattern: str | None
    norm_lost: Share | None = Field(description="Share of the weights' norm that left.")


class SparsityJson(Written):
    """All matrices with zeros."""

    asked: Share
    reached: Share
    zeros: int
    calibration: str = Field(description="The text of `data`, in words; empty where none was read.")
    calibration_windows: int
    calibration_source: str
    settings: dict[str, Any] = Field(description="Options of `sparsify`.")
    matrices: list[Matrix] = Field(min_length=1)


class Round(Written):
    """A cut of the search."""

    divergence: float = Field(description="KL divergence from the uncut model, nats per token.")
    attention_share: float
    seconds: float
    taken: list[Any] = Field(description="Units that left each half; so are the next two, of each half.")
    scales: list[Any]
    following: list[Any]


class RoundsFile(Written):
    """What a search found."""

    best: int = Field(description="The round whose cut the plan is.")
    rounds: list[Round] = Field(min_length=1)
    seconds: dict[str, float] = Field(description="By phase.")
    peak_memory_bytes: int


class SearchJson(RoundsFile, Figures):
    """As `search.json`."""


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


class Phase(Written):
    """A phase of a command on the devices."""

    phase: str
    options: str = Field(description="What the command needs to be given.")
    memory_bytes: float
    fits: bool
    seconds: float | None
    processes: int


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
    phases: list[Phase] = Field(min_length=1)
    advice: list[str]


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


class ExportJson(ExportFile, Figures):
    """What an export wrote."""


class TunedLayer(Written):
    """Thresholds of a layer, a number for each head; null for infinity."""

    layer: int
    mean_sparsity: Share
    cdfthreshd: list[float | None]
    pvthreshd: list[float | None]
    sparsity: list[float | None]
    pv_sparsity: list[float | None]
    error: list[float | None]


class TuneJson(Figures):
    """An attention profile."""

    mean_sparsity: Share
    layers: list[TunedLayer] = Field(min_length=1)
    blocks: dict[str, Any] = Field(description="Options of the blocks.")
    model: str
    data: str
    windows: int = Field(description="Of data.")
    seqlen: int
    seed: int
    metric: str
    l1: float
    pv_l1: float


class GenerateJson(Figures):
    """A text."""

    text: str
    prompt_tokens: int
    new_tokens: int
    prefill_seconds: float
    decode_seconds: float
    sparsity: Share


class AttentionCompareJson(Figures):
    """Sparse attention against dense."""

    perplexity: ByText = Field(description="Of dense attention, by the text's name; null where it is not finite.")
    sparse_perplexity: ByText
    windows: dict[str, int] = Field(description="By the text's name.")
    seqlen: int
    data: str
    ppl_ratio: float | None
    logits_cosine: float
    greedy_agreement: Share
    sparsity: Share = Field(description="Share of blocks left out in layers that are sparse.")
    density: Share = Field(description="Share of all blocks that is computed.")
    seconds: float = Field(description="To the first token, dense.")
    sparse_seconds: float
    speedup: float | None


class SweepCell(Written):
    """A combination of values."""

    directory: str
    values: dict[str, Any]
    error: str | None


class SweepFile(Written):
    """Which cells a sweep has; their figures are in their own directories."""

    name: str
    recipe: str
    cells: list[SweepCell]


# What writes it, and the model; the second part of a title stands where two commands write the same.
FILES: dict[str, tuple[str, type[Written]]] = {
    "evaluate --json": ("`secateur evaluate`", EvaluateJson),
    "compare --json": ("`secateur compare`, `secateur sweep`", CompareJson),
    "comparison.json": ("`secateur compare`, `secateur sweep`", ComparisonFile),
    "run --json": ("`secateur run`", RunJson),
    "metrics.json": ("a run's directory", MetricsJson),
    "evaluation.json": ("`measure-*` of a run", EvaluationJson),
    "sweep.json": ("a sweep's directory", SweepFile),
    "prune --json": ("`secateur prune`", PruneJson),
    "pruning_plan.json": ("`secateur prune`, `secateur search`, a run", PlanJson),
    "layer_importance.json": ("`secateur prune`, a run", ImportanceJson),
    "search --json": ("`secateur search`", SearchJson),
    "search.json": ("`secateur search`", RoundsFile),
    "sparsify --json": ("`secateur sparsify`", SparsifyJson),
    "sparsity.json": ("`secateur sparsify`, a run", SparsityJson),
    "recover --json": ("`secateur recover`", RecoverJson),
    "recovery.json": ("`secateur recover`, a run", RecoveryFile),
    "diagnose --json": ("`secateur diagnose`", DiagnoseJson),
    "plan --json": ("`secateur plan`; it may have more keys", EstimateJson),
    "export --json": ("`secateur export`", ExportJson),
    "attention tune --json": ("`secateur attention tune`", TuneJson),
    "attention generate --json": ("`secateur attention generate`", GenerateJson),
    "attention compare --json": ("`secateur attention compare`", AttentionCompareJson),
}
