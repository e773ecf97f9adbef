"""Sparse attention, tuned and learned."""

from typing import Any

from pydantic import Field

from secateur.runs.written.base import ByText, Figures, Share, Written


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


class LongRangeFile(Written):
    """A classifier of long sequences."""

    name: str
    task: str
    mode: str
    pattern: str
    seed: int
    accuracy: Share
    majority: Share = Field(description="Accuracy of always naming the most frequent class.")
    test_examples: int
    best_on_dev: float | None
    steps: int
    switched: int | None = Field(description="The step from which attention is sparse.")
    reason: str | None = Field(description="Why then.")
    density: Share | None = Field(description="Share of blocks that is computed.")
    block_size: int
    skewness: float
    distance: float
    step_ms: dict[str, float] = Field(description="Median, by dense and sparse.")
    seconds: float
    memory_bytes: dict[str, Any]
    evaluations: list[Any]
    losses: list[Any]
    history: list[Any] = Field(description="Of what the switch looks at.")
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]


class LongRangeJson(LongRangeFile, Figures):
    """As `results.json`."""


class LongRangeMetrics(Written):
    """All runs of a recipe with a section longrange."""

    name: str
    task: str
    runs: list[LongRangeFile]


class LongRangeRunJson(LongRangeMetrics, Figures):
    """As the `metrics.json` of such a recipe."""


class LongRangeEvaluateJson(Figures):
    """Accuracy of a trained classifier."""

    task: str
    name: str
    split: str
    accuracy: Share
    loss: float
    majority: Share
    examples: int
