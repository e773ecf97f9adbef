"""Options by name, for type checkers: `make options` writes this file from the configs."""

from __future__ import annotations

from typing import TypedDict

from secateur.calibration.streaming import Offload
from secateur.data import Data
from secateur.rounding.config import Bits, Group


class QuantizeOptions(TypedDict, total=False):
    """Options of `secateur.quantize`, the fields of `QuantizeConfig`."""

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

    layers: str | None
    """Only these layers: FIRST:END, END not included. In YAML write it in quotes."""

    data: Data
    """Text that is fitted to: a named corpus, a file, or several with shares of the windows, a.jsonl:0.7,b.txt:0.3.
    Default: 'pydocs'.
    """

    windows: int
    """Windows that are fitted to. Default: 64."""

    own_text: float | str
    """Share of windows that the model writes itself. Default: 0.0."""

    seqlen: int
    """Tokens in a window. Default: 512."""

    batch_size: int
    """Windows that go through the model at once. Default: 8."""

    seed: int
    """Seed for the choice of windows. Default: 0."""

    offload: Offload
    """Where calibration activations wait between layers: with the model, cpu, or disk. Default: 'none'."""

    bits: Bits
    """Bits of a weight: 4 or 8. Default: 4."""

    group: Group
    """Neighbouring weights of a row that share a scale. auto: 128, or where that does not divide a projection's inputs
    64 or 32. Default: 'auto'.
    """

    quantize_head: bool
    """The output embeddings (lm_head) too, where they are not tied to the input's. Default: False."""

    damping: float | str
    """Ridge of the re-fit, as a share of each input's second moment. Default: 0.1."""
