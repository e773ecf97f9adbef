"""The calibration text that every cut is fitted to, and which layers are cut."""

import logging
import re
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self

import torch
from pydantic import BaseModel, Field, field_validator, model_validator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.calibration.own_text import own_text
from secateur.calibration.streaming import Offload
from secateur.data import Corpus, DataName, DataOptions, load_corpus, token_windows
from secateur.errors import InputError
from secateur.files.option_names import Renamed
from secateur.files.shares import Ratio
from secateur.models.options import LARGEST_SEED, LoadOptions, StreamOptions, no_number
from secateur.models.streamed import streamed
from secateur.models.tokenizers import require_known

logger = logging.getLogger(__name__)


class LayerRange(BaseModel):
    """Which layers."""

    layers: str | None = Field(
        default=None, description="Only these layers: FIRST:END, END not included. In YAML write it in quotes."
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _is_no_number(cls, value: object) -> object:
        return no_number(value, "FIRST:END", "10:25")

    @field_validator("layers")
    @classmethod
    def _is_a_range(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d*:\d*", value):
            raise ValueError(f"'{value}' is no range of layers; write FIRST:END, 10:25 for example")
        return value

    @model_validator(mode="after")
    def _names_a_layer(self) -> Self:
        first, _, end = (self.layers or ":").partition(":")
        if end and int(first or 0) >= int(end):
            raise ValueError(f"--layers {self.layers} names no layer; END is not included")
        return self

    def layer_range(self, num_layers: int) -> range:
        """The layers that `layers` names, all without it. Raises `InputError` where they are outside the model."""
        first, _, end = (self.layers or ":").partition(":")
        chosen = range(int(first or 0), int(end or num_layers))
        if not chosen and chosen.stop <= num_layers:
            raise InputError(f"--layers {self.layers} names no layer; END is not included")
        if chosen.stop > num_layers:
            raise InputError(
                f"--layers {self.layers} is outside the model: it has layers 0 to {num_layers - 1}, "
                f"so the widest range is 0:{num_layers}"
            )
        return chosen


class CalibratedConfig(Renamed, LayerRange, DataOptions, LoadOptions):
    """What all cuts that are fitted to a text can be told."""

    earlier_names: ClassVar[Mapping[str, str]] = {"calibration": "data", "samples": "windows"}

    data: DataName = Field(
        default="pydocs",
        description="Text that is fitted to: a named corpus, a file, or several with shares of "
        "the windows, a.jsonl:0.7,b.txt:0.3.",
    )
    windows: int = Field(default=64, ge=1, description="Windows that are fitted to.")
    own_text: Ratio = Field(
        default=0.5,
        ge=0,
        le=0.9,
        description="Share of those windows that the model writes itself, so that the cut spares what the calibration "
        "text does not show.",
    )
    seqlen: int = Field(default=512, ge=2, description="Tokens in a window.")
    batch_size: int = Field(default=8, ge=1, description="Windows that go through the model at once.")
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed for the choice of windows.")


class StreamedConfig(StreamOptions, CalibratedConfig):
    """What cuts can be told that work on a model larger than memory."""

    offload: Offload = Field(
        default="none", description="Where calibration activations wait between layers: with the model, cpu, or disk."
    )

    @property
    def needs_text(self) -> bool:
        """Whether a calibration text is read."""
        return True


class Calibration(NamedTuple):
    """Windows to fit a cut to.

    Attributes:
        windows: tokens, (windows, seqlen): those of the corpus, then those that the model wrote.
        own: how many the latter are.
        corpus: where the others come from.
    """

    windows: Tensor
    own: int
    corpus: Corpus

    @property
    def description(self) -> str:
        """One line for a report."""
        written = f"; {self.own} of {len(self.windows)} windows written by the model itself" if self.own else ""
        return self.corpus.description + written


def calibrate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, config: CalibratedConfig
) -> Calibration:
    """Draw the windows of a corpus, and let the model write its share.

    Raises:
        DataError: the corpus is not there or shorter than one window.
        InputError: the model is streamed or has no tokenizer, and is to write text.
    """
    share = config.own_text
    if share and streamed(model) and "own_text" not in config.model_fields_set:
        logger.warning("A streamed model writes no text of its own: all windows are of %s", config.data)
        share = 0.0
    if share and streamed(model):
        raise InputError(
            "a streamed model does not write text: each token would read all of its files; pass --own-text 0"
        )
    if share and tokenizer is None and "own_text" not in config.model_fields_set:
        logger.warning("Without its tokenizer a model writes no text of its own: all windows are of %s", config.data)
        share = 0.0
    if share and tokenizer is None:
        raise InputError("tokenizer= is None; give the model's, which writes text of its own, or pass --own-text 0")
    corpus = load_corpus(config.data, "train", config)
    own = int(share * config.windows)
    windows = token_windows(tokenizer, corpus, config.seqlen, limit=config.windows - own, seed=config.seed)
    require_known(model, windows)
    # A short text does not leave the model to itself.
    own = min(own, round(len(windows) * share / (1 - share)))
    if own and tokenizer is not None:
        windows = torch.cat([windows, own_text(model, tokenizer, own, config.seqlen, config.seed)])
    return Calibration(windows, own, corpus)
