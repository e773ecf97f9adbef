"""What sparse attention can be told, for the command line and Python alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from secateur.attention.blocks import PredictorName
from secateur.attention.curve import Metric
from secateur.calibration.windows import LayerRange
from secateur.console import flag
from secateur.data import DataName, DataOptions
from secateur.files.option_names import Renamed
from secateur.files.shares import Ratio
from secateur.kernels import Backend
from secateur.kernels.grid import BlockGrid
from secateur.models.options import LARGEST_SEED, LoadOptions

SHORTEST = 256
LARGEST_BLOCK = 4096


class BlockOptions(BaseModel):
    """How blocks are laid out and judged."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    predictor: PredictorName = Field(
        default="sampled",
        description="Where a block's weight comes from: every 16th query (sampled), or mean queries and keys, as "
        "SpargeAttention (mean-similarity).",
    )
    query_block: int = Field(default=128, ge=16, le=LARGEST_BLOCK, description="Queries in a block.")
    key_block: int = Field(default=64, ge=16, le=LARGEST_BLOCK, description="Keys in a block.")
    simthreshd: float = Field(
        default=0.1, ge=-1, le=1, description="mean-similarity keeps blocks whose tokens are less alike than this."
    )
    keep_ends: bool = Field(default=True, description="The first key block and the diagonal always stay.")

    def blocks(self) -> "BlockOptions":
        """These options alone, of a configuration that has more."""
        return BlockOptions(**{name: getattr(self, name) for name in BlockOptions.model_fields})

    def grid(self, queries: int, keys: int, causal: bool) -> BlockGrid:
        """The blocks of an attention matrix."""
        return BlockGrid(queries, keys, causal, self.query_block, self.key_block)


class SparseOptions(BlockOptions):
    """Sparse attention without a profile: one rule for all heads."""

    topk: Ratio | None = Field(default=None, gt=0, le=1, description="Compute this share of each row's blocks.")
    cdfthreshd: Ratio | None = Field(
        default=None, ge=0, le=1, description="Compute blocks until so much of the softmax mass should be covered."
    )
    pvthreshd: float | None = Field(
        default=None,
        gt=0,
        description="Leave out P·V where all scores lie so far below the running maximum (only by the backends triton "
        "and reference).",
    )


class TuneConfig(Renamed, BlockOptions, DataOptions, LoadOptions, LayerRange):
    """Tuning of thresholds: one for each head, to an error bound."""

    earlier_names: ClassVar[Mapping[str, str]] = {"samples": "windows"}

    data: DataName = Field(
        default="pydocs", description="Text to tune on: a named corpus, a file, or several with shares of the windows."
    )
    windows: int = Field(default=5, ge=1, le=100, description="Windows of it; 5 to 10 are enough.")
    seqlen: int = Field(default=4096, description="Tokens in a window; 2048 or more.")
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed for the choice of windows.")
    l1: Ratio = Field(default=0.06, gt=0, lt=1, description="Most error that a head's left-out blocks may make.")
    pv_l1: Ratio = Field(
        default=0.07, gt=0, lt=1, description="Most error with P·V left out as well; larger than --l1."
    )
    price: float = Field(
        default=20.0,
        ge=0,
        description="What a head's error weighs: within the bound it takes the threshold with the highest sparsity "
        "less price times relative squared error. 0: the highest sparsity.",
    )
    metric: Metric = Field(
        default="l1",
        description="What the error is, of a head's output relative to the dense one: sum of differences (l1), their "
        "root mean square (rmse), or one less the cosine (cosine).",
    )

    @field_validator("seqlen")
    @classmethod
    def _is_long_enough(cls, value: int) -> int:
        if value < SHORTEST:
            raise ValueError(f"windows below {SHORTEST} tokens have too few blocks to leave out; take 2048 or more")
        return value

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.pv_l1 <= self.l1:
            raise ValueError(
                f"pv_l1 is {self.pv_l1:g} and l1 {self.l1:g}: pv_l1 bounds the error of both and must be larger"
            )
        return self


class UseConfig(SparseOptions, LoadOptions):
    """Sparse attention in a loaded model: a profile, or one rule for all heads."""

    profile: Path | None = Field(
        default=None, description="Tuned thresholds: the file that attention tune has written."
    )
    backend: Backend = Field(default="auto", description="Kernel; auto takes the fastest for the device.")

    @model_validator(mode="after")
    def _profile_or_rule(self) -> Self:
        alone = set(SparseOptions.model_fields) & self.model_fields_set
        if self.profile is not None and alone:
            raise ValueError(f"the profile says how blocks are chosen; leave out {flag(sorted(alone)[0])}")
        if self.profile is None:
            require_rule(self)
        return self

    def rule(self) -> dict[str, Any]:
        """The fields of `SparseOptions`, for `secateur.attention.apply`; none where there is a profile."""
        return {} if self.profile else {name: getattr(self, name) for name in SparseOptions.model_fields}


class CompareConfig(UseConfig, DataOptions):
    """Sparse attention against dense, side by side."""

    data: DataName = Field(
        default="pydocs",
        description="Text to read: a named corpus (test part), a file, or several with shares of the windows.",
    )
    windows: int = Field(default=3, ge=1, description="Windows of it.")
    seqlen: int = Field(default=4096, ge=2, description="Tokens in a window.")
    batch_size: int = Field(default=1, ge=1, description="Windows that go through the model at once.")
    repeats: int = Field(default=3, ge=1, description="Times that the first token is timed; the median counts.")
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed for the choice of windows.")


class GenerateConfig(UseConfig):
    """Text written after a prompt that sparse attention has read."""

    prompt: str | None = Field(default=None, description="The prompt.")
    prompt_file: Path | None = Field(default=None, description="A text file that holds it.")
    max_new_tokens: int = Field(
        default=100, ge=1, le=1_000_000, description="Length of the answer unless it ends earlier."
    )
    chat: bool = Field(default=False, description="Put the model's chat template around the prompt.")
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="Another one than the model's, which --chat takes: one of several that it has by NAME, alpaca, or "
        "a FILE with a template.",
    )
    compile: bool = Field(default=False, description="Compile decoding (torch.compile, static cache).")

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.prompt_file is None):
            raise ValueError("give --prompt TEXT or --prompt-file FILE")
        return self


def require_rule(options: SparseOptions) -> None:
    """Raise `ValueError` unless the options say what is left out."""
    if options.topk is None and options.cdfthreshd is None:
        raise ValueError("nothing says which blocks to leave out: give --profile FILE, --topk or --cdfthreshd")
