"""Options by name, for type checkers: `make options` writes this file from the configs."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from secateur.attention.blocks import PredictorName
from secateur.attention.curve import Metric
from secateur.data import Data
from secateur.kernels import Backend


class TuneOptions(TypedDict, total=False):
    """Options of `secateur.attention.tune`, the fields of `TuneConfig`."""

    layers: str | None
    """Only these layers: FIRST:END, END not included. In YAML write it in quotes."""

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

    predictor: PredictorName
    """Where a block's weight comes from: every 16th query (sampled), or mean queries and keys, as SpargeAttention
    (mean-similarity). Default: 'sampled'.
    """

    query_block: int
    """Queries in a block. Default: 128."""

    key_block: int
    """Keys in a block. Default: 64."""

    simthreshd: float
    """mean-similarity keeps blocks whose tokens are less alike than this. Default: 0.1."""

    keep_ends: bool
    """The first key block and the diagonal always stay. Default: True."""

    data: Data
    """Text to tune on: a named corpus, a file, or several with shares of the windows. Default: 'pydocs'."""

    windows: int
    """Windows of it; 5 to 10 are enough. Default: 5."""

    seqlen: int
    """Tokens in a window; 2048 or more. Default: 4096."""

    seed: int
    """Seed for the choice of windows. Default: 0."""

    l1: float | str
    """Most error that a head's left-out blocks may make. Default: 0.06."""

    pv_l1: float | str
    """Most error with P·V left out as well; larger than l1=. Default: 0.07."""

    price: float
    """What a head's error weighs: within the bound it takes the threshold with the highest sparsity less price times
    relative squared error. 0: the highest sparsity. Default: 20.0.
    """

    metric: Metric
    """What the error is, of a head's output relative to the dense one: sum of differences (l1), their root mean square
    (rmse), or one less the cosine (cosine). Default: 'l1'.
    """


class ApplyOptions(TypedDict, total=False):
    """Options of `secateur.attention.apply`, the fields of `SparseOptions`."""

    predictor: PredictorName
    """Where a block's weight comes from: every 16th query (sampled), or mean queries and keys, as SpargeAttention
    (mean-similarity). Default: 'sampled'.
    """

    query_block: int
    """Queries in a block. Default: 128."""

    key_block: int
    """Keys in a block. Default: 64."""

    simthreshd: float
    """mean-similarity keeps blocks whose tokens are less alike than this. Default: 0.1."""

    keep_ends: bool
    """The first key block and the diagonal always stay. Default: True."""

    topk: float | str | None
    """Compute this share of each row's blocks."""

    cdfthreshd: float | str | None
    """Compute blocks until so much of the softmax mass should be covered."""

    pvthreshd: float | None
    """Leave out P·V where all scores lie so far below the running maximum (only by the backends triton and reference).
    """


class GenerateOptions(TypedDict, total=False):
    """Options of `secateur.attention.generate`, the fields of `GenerateConfig`."""

    predictor: PredictorName
    """Where a block's weight comes from: every 16th query (sampled), or mean queries and keys, as SpargeAttention
    (mean-similarity). Default: 'sampled'.
    """

    query_block: int
    """Queries in a block. Default: 128."""

    key_block: int
    """Keys in a block. Default: 64."""

    simthreshd: float
    """mean-similarity keeps blocks whose tokens are less alike than this. Default: 0.1."""

    keep_ends: bool
    """The first key block and the diagonal always stay. Default: True."""

    topk: float | str | None
    """Compute this share of each row's blocks."""

    cdfthreshd: float | str | None
    """Compute blocks until so much of the softmax mass should be covered."""

    pvthreshd: float | None
    """Leave out P·V where all scores lie so far below the running maximum (only by the backends triton and reference).
    """

    profile: str | Path | None
    """Tuned thresholds: the file that attention tune has written."""

    backend: Backend
    """Kernel; auto takes the fastest for the device. Default: 'auto'."""

    prompt: str | None
    """The prompt."""

    prompt_file: str | Path | None
    """A text file that holds it."""

    max_new_tokens: int
    """Length of the answer unless it ends earlier. Default: 100."""

    chat: bool
    """Put the model's chat template around the prompt. Default: False."""

    chat_template: str | None
    """Another one than the model's, which chat=True takes: one of several that it has by NAME, alpaca, or a FILE with a
    template.
    """

    compile: bool
    """Compile decoding (torch.compile, static cache). Default: False."""


class CompareOptions(TypedDict, total=False):
    """Options of `secateur.attention.compare`, the fields of `CompareConfig`."""

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

    predictor: PredictorName
    """Where a block's weight comes from: every 16th query (sampled), or mean queries and keys, as SpargeAttention
    (mean-similarity). Default: 'sampled'.
    """

    query_block: int
    """Queries in a block. Default: 128."""

    key_block: int
    """Keys in a block. Default: 64."""

    simthreshd: float
    """mean-similarity keeps blocks whose tokens are less alike than this. Default: 0.1."""

    keep_ends: bool
    """The first key block and the diagonal always stay. Default: True."""

    topk: float | str | None
    """Compute this share of each row's blocks."""

    cdfthreshd: float | str | None
    """Compute blocks until so much of the softmax mass should be covered."""

    pvthreshd: float | None
    """Leave out P·V where all scores lie so far below the running maximum (only by the backends triton and reference).
    """

    profile: str | Path | None
    """Tuned thresholds: the file that attention tune has written."""

    backend: Backend
    """Kernel; auto takes the fastest for the device. Default: 'auto'."""

    data: Data
    """Text to read: a named corpus (test part), a file, or several with shares of the windows. Default: 'pydocs'."""

    windows: int
    """Windows of it. Default: 3."""

    seqlen: int
    """Tokens in a window. Default: 4096."""

    batch_size: int
    """Windows that go through the model at once. Default: 1."""

    repeats: int
    """Times that the first token is timed; the median counts. Default: 3."""

    seed: int
    """Seed for the choice of windows. Default: 0."""
