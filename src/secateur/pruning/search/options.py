"""Options by name, for type checkers: `make options` writes this file from the configs."""

from __future__ import annotations

from typing import TypedDict

from secateur.costs.config import Engine
from secateur.data import Data
from secateur.models.masks import Zeros
from secateur.pruning.config import Target


class SearchOptions(TypedDict, total=False):
    """Options of `secateur.search`, the fields of `SearchConfig`."""

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
    """Share of those windows that the model writes itself, so that the cut spares what the calibration text does not
    show. Default: 0.5.
    """

    seqlen: int
    """Tokens in a window. Default: 512."""

    batch_size: int
    """Windows that go through the model at once. Default: 8."""

    seed: int
    """Seed for the choice of windows. Default: 0."""

    target_memory: str | None
    """What the cut model may take, 6GB or 900MB: its weights as they will be stored, and the KV cache of context=
    tokens.
    """

    target_latency: str | None
    """What the cut model may take for a decoded token, 25ms for example."""

    target_throughput: str | None
    """How many tokens a second the cut model is to decode, one sequence at a time."""

    context: int | None
    """Tokens before the last: in the cache of target_memory=4096, before the token that is timed 512 unless given, or
    the model's most where that is less.
    """

    batch: int
    """Sequences that the cache of target_memory= holds. Default: 1."""

    bits: int | None
    """Bits in which the projections will be stored: 16, 8 or 4, the latter two with a scale for each 128, 64 or 32
    weights; the rest in 16. Unless given, all as the model's own files are, or as quantize= says.
    """

    target_device: str
    """Where a token is timed: this machine, a device that secateur plan knows (by its bandwidth), or the file of
    secateur measure-widths from another machine. Default: 'this'.
    """

    engine: Engine
    """What decodes. Default: 'transformers'."""

    ratio: float | str
    """Share of all parameters to remove. Default: 0.25."""

    target: Target
    """What is cut; depth: only whole halves of layers. Default: 'both'."""

    keep_halves: bool
    """Leave something of every attention and every MLP; no half of a layer goes whole. Default: False."""

    drop_layers: int
    """Drop so many whole layers, those that cost least. Default: 0."""

    drop: str
    """Halves to drop whole: layers=20-24, attention=25,26, mlp=3, or several of them. Default: ''."""

    freeze: str | list[int]
    """Layers that lose nothing, e.g. 0,1,31. Default: []."""

    min_rate: float | str
    """Least share of its parameters that a cut layer loses. Default: 0.0."""

    max_rate: float | str
    """Largest share of its parameters that a cut layer loses. Default: 0.8."""

    channel_multiple: int | None
    """How many MLP channels a cut layer keeps is a multiple of this. Unless given, 32 where the widest layer has 1,024
    or more, else 8.
    """

    tensor_parallel: int
    """How many cards are to share each layer: what it keeps of GQA groups and of MLP channels divides by this. Default:
    1.
    """

    zeros: Zeros
    """Whether zeros are to stay. auto: in a model whose sparsity.json says so, or with N:M or a third zeros, no re-fit
    is made, which would fill them. Default: 'auto'.
    """

    damping: float | str
    """Ridge of the re-fit, as a share of the inputs' mean second moment. Default: 0.2."""

    rounds: int
    """How often the cut is made, the cost of each half measured where it stands, and spread anew. Default: 8."""

    measured_windows: int
    """Windows of the calibration text, beside those fitted to, to measure the cut on. Default: 16."""

    patience: int
    """Rounds in a row without a lower KL divergence after which the search ends. Default: 3."""
