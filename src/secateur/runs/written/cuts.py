"""Cuts, and the search for one."""

from typing import Any

from pydantic import Field

from secateur.runs.written.base import Figures, Pair, Share, Written


class Target(Written):
    """What a cut was to cost, in the place of a ratio."""

    option: str = Field(description="target_memory, target_latency or target_throughput.")
    asked: str
    unit: str = Field(description="bytes, or ms for a decoded token; of the next three.")
    target: float
    before: float
    reached: float = Field(description="By the arithmetic of the plan: of a time, by the times of widths.")
    cache_bytes: float = Field(description="Of `reached`, what the KV cache takes.")
    context: int | None
    batch: int
    bits: int | None
    device: str
    engine: str


class PruneJson(Figures):
    """What a cut removed."""

    parameters_before: int
    parameters_after: int
    ratio: Share = Field(description="Asked for.")
    reached: Share
    target: Target | None = Field(description="In the place of the ratio, which is then the one reached.")
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


class PlannedModel(Written):
    """What model a plan is of: another is refused."""

    family: str
    num_hidden_layers: int
    hidden_size: int
    head_dim: int
    units: str = Field(description="A digest of the sizes of its units.")


class PlanJson(Written):
    """What is cut where; `prune --plan` takes it."""

    ratio: Share
    reached: Share
    target: Target | None = Field(description="In the place of the ratio, which is then the one reached.")
    parameters_before: int
    parameters_after: int
    head_dim: int
    query_heads_per_group: int
    calibration: str = Field(description="The text of `data`, in words.")
    calibration_windows: int
    calibration_source: str
    model: PlannedModel
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
    norm_lost: Share | None = Field(None, description="Share of the weights' norm that left.")


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


class QuantizeJson(Figures):
    """What rounding left."""

    bytes_before: int = Field(description="Of the weights on disk, embeddings included.")
    bytes_after: int
    seconds: dict[str, float] = Field(description="By phase.")
    peak_memory_bytes: int


class RoundedMatrix(Written):
    """A matrix of rounded weights."""

    layer: int | None = Field(description="None for the head.")
    name: str
    shape: Pair
    bits: int
    group: int = Field(description="Neighbouring weights of a row that share a scale.")
    bytes: int = Field(description="On disk, with the scales.")


class QuantizationJson(Written):
    """All matrices of rounded weights."""

    bytes_before: int = Field(description="Of the weights on disk, embeddings included.")
    bytes_after: int
    calibration: str = Field(description="The text of `data`, in words.")
    calibration_windows: int
    calibration_source: str
    settings: dict[str, Any] = Field(description="Options of `quantize`.")
    matrices: list[RoundedMatrix] = Field(min_length=1)


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
