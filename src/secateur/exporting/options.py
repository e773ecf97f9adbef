"""Options by name, for type checkers: `make options` writes this file from the configs."""

from __future__ import annotations

from typing import TypedDict

from secateur.data import Data
from secateur.exporting.config import Format, NumberFormat


class ExportOptions(TypedDict, total=False):
    """Options of `secateur.export`, the fields of `ExportConfig`."""

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

    format: Format
    """gguf: a file for llama.cpp. nemotron-nas: a directory for vLLM, SGLang and mlx-lm, of a model of which MLP
    channels alone are cut, to multiples of 256. Default: 'gguf'.
    """

    data: Data | None
    """Text that says how much each input of a matrix weighs when that is rounded to less than 8 bits: a named corpus, a
    file, or several with shares. Without one all weigh the same.
    """

    windows: int
    """Windows of that text. Default: 64."""

    seqlen: int
    """Tokens in a window. Default: 512."""

    batch_size: int
    """Windows that go through the model at once. Default: 8."""

    seed: int
    """Seed for the choice of windows. Default: 0."""

    dtype: NumberFormat | None
    """Number format of the matrices; unless given f16 in a GGUF file, and in a directory the model's own. f32, f16,
    bf16, q8_0, q6_k, q5_k_m, q5_k_s, q5_0, q4_k_m, q4_k_s, q4_0, q3_k_l, q3_k_m or q2_k: those with a k or with 4 or 5
    bits are llama.cpp's, with its choice for each matrix (extra: gguf). Rows that a format's blocks do not divide get
    another, which is said.
    """
