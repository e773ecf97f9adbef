"""Options by name, for type checkers: `make options` writes this file from the configs."""

from __future__ import annotations

from typing import TypedDict

from secateur.data import Data


class EvaluateOptions(TypedDict, total=False):
    """Options of `secateur.evaluate`, the fields of `EvaluateConfig`."""

    text_column: str | None
    """The column of plain text; 'text' unless given."""

    prompt_column: str | None
    """The column of what is asked; by its usual names unless given. Goes with answer_column."""

    input_column: str | None
    """The column of what it is asked about, beside prompt_column."""

    answer_column: str | None
    """The column of the answer."""

    chat_template: str | None
    """How conversations and instructions become text: model (its own chat template), one of several that it has by
    NAME, alpaca, or a FILE with a template. The model's unless given, where it has one, else alpaca.
    """

    data: Data | list[Data]
    """Texts for perplexity: named corpora (their test part) or files; neighbours with shares of the windows,
    a.jsonl:0.7,b.txt:0.3, are one text. Default: ['pydocs'].
    """

    seqlen: int
    """Tokens per window. Default: 512."""

    stride: int | None
    """Tokens from one window to the next; default: seqlen, no overlap."""

    windows: int | None
    """Use only the first so many windows; default: all."""

    batch_size: int
    """Windows per forward pass; halved where a GPU lacks memory. Default: 8."""

    perplexity: bool
    """Measure perplexity. Default: True."""

    tasks: str | list[str]
    """Tasks and groups of lm-eval, or of include_path: hellaswag,piqa,arc_easy,mmlu (extra: tasks). Default: []."""

    limit: int | None
    """Use only the first so many examples of each task."""

    num_fewshot: int | None
    """Solved examples before each question; default: the task's own, most have 0."""

    include_path: str | None
    """A directory with tasks of your own: YAML files as lm-eval has them, and their data."""

    speed: bool
    """Measure tokens per second and peak memory. Default: True."""

    prompt_tokens: int
    """Length of the prompt that speed is measured on. Default: 512."""

    new_tokens: int
    """Tokens decoded when speed is measured. Default: 32."""

    repeats: int
    """Speed is the median of so many repeats. Default: 3."""

    max_seconds: float
    """Begin no further repeat after so many seconds per model. Default: 30.0."""

    seed: int
    """Seed of the random prompt that speed is measured on, and of the tasks' solved examples. Default: 0."""

    trust_remote_code: bool
    """Run Python code that comes with the model. Default: False."""


class DiagnoseOptions(TypedDict, total=False):
    """Options of `secateur.diagnose`, the fields of `DiagnoseConfig`."""

    text_column: str | None
    """The column of plain text; 'text' unless given."""

    prompt_column: str | None
    """The column of what is asked; by its usual names unless given. Goes with answer_column."""

    input_column: str | None
    """The column of what it is asked about, beside prompt_column."""

    answer_column: str | None
    """The column of the answer."""

    chat_template: str | None
    """How conversations and instructions become text: model (its own chat template), one of several that it has by
    NAME, alpaca, or a FILE with a template. The model's unless given, where it has one, else alpaca.
    """

    huge: float
    """Weights of a larger absolute value are an error. Default: 10000.0."""

    data: Data
    """Text for the forward pass: a named corpus or a file. Default: 'pydocs'."""

    seqlen: int
    """Tokens per window of the forward pass. Default: 128."""

    windows: int
    """Windows of the forward pass. Default: 4."""
