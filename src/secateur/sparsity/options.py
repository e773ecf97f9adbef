"""Options by name, for type checkers: `make options` writes this file from the configs."""

from __future__ import annotations

from typing import TypedDict

from secateur.calibration.streaming import Offload
from secateur.data import Data
from secateur.rounding.config import Bits, Group
from secateur.sparsity.config import Allocation, Method


class SparsifyOptions(TypedDict, total=False):
    """Options of `secateur.sparsify`, the fields of `SparsifyConfig`."""

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

    quantize: Bits | None
    """Round the weights left to 4 or 8 bits in the same pass; as they are unless given."""

    group: Group
    """For quantize: neighbouring weights of a row that share a scale. auto: 128, or where that does not divide a
    projection's inputs 64 or 32. Default: 'auto'.
    """

    method: Method
    """How zeros are chosen: by |W|·‖x‖ with the rest re-solved (admm), column by column (sparsegpt), by |W|·‖x‖ (wanda)
    or |W| (magnitude) alone. Default: 'admm'.
    """

    sparsity: float | str | None
    """Share of the weights that become zero; 0.5 unless given."""

    pattern: str | None
    """N:M instead of a share: N of M neighbouring weights of a row stay, 2:4 for example."""

    skip: str | list[str]
    """Projections that stay dense: k_proj in all layers, or 3.down_proj in one. Embeddings and lm_head always do.
    Default: [].
    """

    allocation: Allocation | None
    """How zeros are spread: where they should cost least (fisher), fewer in layers with more outliers (owl), or alike
    (uniform). Unless given fisher with admm, uniform with other methods and with patterns.
    """

    fisher_range: float | str
    """Most that a matrix's share is moved by fisher, up or down. Default: 0.15."""

    owl_range: float | str
    """Most that a layer's share is moved by owl, up or down. Default: 0.08."""

    owl_outlier: float
    """What owl calls an outlier: a score of so many times the layer's mean. Default: 5.0."""

    damping: float | str | None
    """Ridge of the re-fit: of admm as a share of each input's second moment, 0.5 unless given; of sparsegpt as a share
    of their mean, 0.01 unless given.
    """

    layer_by_layer: bool
    """Keep the model on the CPU and bring one layer at a time to device=, for a model larger than it. Default: False.
    """

    device: str
    """auto, cpu, cuda or cuda:N. Default: 'auto'."""
