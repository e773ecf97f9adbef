"""What `secateur evaluate` and `secateur diagnose` let their user choose."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from secateur.data import DataName, DataOptions, texts_of
from secateur.models.options import LARGEST_SEED, LoadOptions, StreamOptions


class EvaluateConfig(DataOptions, StreamOptions):
    """What is measured, and on which text."""

    data: Annotated[list[DataName], BeforeValidator(texts_of)] = Field(
        default=["pydocs"],
        min_length=1,
        description="Texts for perplexity: named corpora (their test part) or files; neighbours with shares of "
        "the windows, a.jsonl:0.7,b.txt:0.3, are one text.",
    )
    seqlen: int = Field(default=512, ge=2, description="Tokens per window.")
    stride: int | None = Field(
        default=None, ge=1, description="Tokens from one window to the next; default: seqlen, no overlap."
    )
    windows: int | None = Field(default=None, ge=1, description="Use only the first so many windows; default: all.")
    batch_size: int = Field(default=8, ge=1, description="Windows per forward pass; halved where a GPU lacks memory.")
    perplexity: bool = Field(default=True, description="Measure perplexity.")
    tasks: list[str] = Field(
        default=[],
        description="Tasks and groups of lm-eval, or of include_path: hellaswag,piqa,arc_easy,mmlu (extra: tasks).",
    )
    limit: int | None = Field(default=None, ge=1, description="Use only the first so many examples of each task.")
    num_fewshot: int | None = Field(
        default=None, ge=0, description="Solved examples before each question; default: the task's own, most have 0."
    )
    include_path: str | None = Field(
        default=None, description="A directory with tasks of your own: YAML files as lm-eval has them, and their data."
    )
    speed: bool = Field(default=True, description="Measure tokens per second and peak memory.")
    prompt_tokens: int = Field(default=512, ge=1, description="Length of the prompt that speed is measured on.")
    new_tokens: int = Field(default=32, ge=1, description="Tokens decoded when speed is measured.")
    repeats: int = Field(default=3, ge=1, description="Speed is the median of so many repeats.")
    max_seconds: float = Field(
        default=30.0, gt=0, description="Begin no further repeat after so many seconds per model."
    )
    semi_structured: bool = Field(
        default=False,
        description="Measure each model with 2:4 weights once more on a GPU's sparse tensor cores, as one more row.",
    )
    adapter: str | None = Field(
        default=None, description="A LoRA directory: the last model with it, unmerged, is one more row."
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=LARGEST_SEED,
        description="Seed of the random prompt that speed is measured on, and of the tasks' solved examples.",
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _stride_leaves_no_gaps(self) -> Self:
        if self.stride is not None and self.stride > self.seqlen:
            raise ValueError(
                f"stride {self.stride} is larger than seqlen {self.seqlen} and would skip text; "
                f"use at most {self.seqlen}"
            )
        return self

    @model_validator(mode="after")
    def _tasks_have_names(self) -> Self:
        given = [name for name in ("limit", "num_fewshot", "include_path") if getattr(self, name) is not None]
        if given and not self.tasks:
            raise ValueError(f"{given[0]} is about tasks and none is named; name some with tasks")
        repeated = [name for name in dict.fromkeys(self.tasks) if self.tasks.count(name) > 1]
        if repeated:
            raise ValueError(f"the task {repeated[0]} is named twice")
        return self


class DiagnoseConfig(DataOptions, LoadOptions):
    """What counts as a problem, and the text of the forward pass."""

    huge: float = Field(default=1e4, gt=0, description="Weights of a larger absolute value are an error.")
    data: DataName = Field(default="pydocs", description="Text for the forward pass: a named corpus or a file.")
    seqlen: int = Field(default=128, ge=2, description="Tokens per window of the forward pass.")
    windows: int = Field(default=4, ge=1, description="Windows of the forward pass.")
