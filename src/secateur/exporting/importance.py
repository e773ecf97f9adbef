"""How much the inputs of each projection weigh: llama.cpp's importance matrix, out of a calibration text."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.calibration.moments import Norms
from secateur.console import track
from secateur.data import load_corpus, token_windows
from secateur.exporting.config import ExportConfig
from secateur.exporting.tensors import Entry
from secateur.models import adapter_of

DATASET, ENTRIES, CHUNKS = (f"quantize.imatrix.{name}" for name in ("dataset", "entries_count", "chunks_count"))


@dataclass(frozen=True)
class Importance:
    """The mean square of each input of each projection.

    Attributes:
        text: where the tokens come from.
        windows: of tokens.
        squares: (in_features,), by the identity of the projection's weight.
    """

    text: str
    windows: int
    squares: Mapping[int, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ExportConfig) -> "Importance":
        """Measure them on a text.

        Args:
            config: with a text, and how it is read.

        Raises:
            DataError: the text is not there or shorter than one window.
        """
        if config.data is None:
            raise ValueError("no calibration text")
        corpus = load_corpus(config.data, "train", config)
        windows = token_windows(tokenizer, corpus, config.seqlen, limit=config.windows, seed=config.seed)
        embeddings: nn.Module = model.get_input_embeddings()
        place, body = next(embeddings.parameters()).device, adapter_of(model).body(model)
        batches = windows.split(config.batch_size)
        with _summing(model) as sums:
            for batch in track(batches, "Weighing the inputs"):
                body(batch.to(place), use_cache=False)
        tokens = windows.numel()
        return cls(corpus.description, len(windows), {key: total.cpu() / tokens for key, total in sums.items()})

    def of_part(self, part: Entry) -> np.ndarray | None:
        """The weight of each column of a tensor, (columns,) float32; None where nothing was measured.

        Columns of zeros, with which a layer is filled up, weigh nothing.
        """
        squares = None if part.weight is None else self.squares.get(id(part.weight))
        if squares is None or len(part.shape) != 2:
            return None
        ordered = squares if part.input_order is None else squares[part.input_order]
        return np.pad(ordered.numpy(), (0, part.shape[-1] - len(ordered)))

    def write(self, writer: gguf.GGUFWriter, entries: int) -> None:
        """Add llama.cpp's keys. It has one for the name of a file too, and there is none.

        Args:
            entries: tensors that were weighed.
        """
        writer.add_string(DATASET, self.text)
        writer.add_uint32(ENTRIES, entries)
        writer.add_uint32(CHUNKS, self.windows)


@contextmanager
def _summing(model: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """Sums of the squares of what goes into the layers' projections meanwhile."""
    sums: dict[int, Tensor] = {}

    def add(module: Any, inputs: tuple[Tensor, ...]) -> None:
        squares = Norms.of(inputs[:1]).squares
        before = sums.get(id(module.weight))
        sums[id(module.weight)] = squares if before is None else before + squares

    linears = [module for module in adapter_of(model).layers(model).modules() if isinstance(module, nn.Linear)]
    handles = [linear.register_forward_pre_hook(add) for linear in linears]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()
