"""Models that were measured, compared and trained."""

from typing import Any

from pydantic import Field

from secateur.runs.written.base import ByText, Figures, Share, Written


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
    engine: str = Field(default="Transformers", description="What ran it: Transformers, or llama.cpp.")
    peak_memory_bytes: int | None = Field(description="While generating.")
    memory_measured: str | None = Field(description="What that is: GPU allocations, or the process's resident set.")


class Continued(Written):
    """A prompt and what a model writes."""

    prompt: str
    continuation: str
    chat: bool = Field(description="Whether it answers through its chat template; else it goes on with the prompt.")


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
    role: str = Field(
        description="evaluation, task, speed, importance, calibration, zeros, training, rounding or export."
    )
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
    export: dict[str, Any] | None = Field(None, description="What the recipe's export wrote.")


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
