"""What is trained and validated on: packed windows of a text, or examples with the loss on their answers."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset
from transformers import PreTrainedTokenizerBase

from secateur.console import counted
from secateur.data import IGNORED, Corpus, count_of_windows, load_corpus, pack_examples, token_windows
from secateur.data.sources import mixed
from secateur.distributed import process_count, share
from secateur.errors import InputError
from secateur.recovery.config import RecoverConfig
from secateur.wording import worded

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]


class Sequences(Dataset[Batch]):
    """Token sequences with their labels; each item knows its own number."""

    def __init__(
        self, input_ids: Sequence[Tensor] | Tensor, labels: Sequence[Tensor] | Tensor, chosen: Tensor | None = None
    ) -> None:
        self.input_ids = input_ids
        self.labels = labels
        self._chosen = torch.arange(len(input_ids)) if chosen is None else chosen  # places in both

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Batch:
        place = int(self._chosen[index])
        return {
            "input_ids": self.input_ids[place],
            "labels": self.labels[place],
            "index": torch.tensor(index),
        }

    def subset(self, numbers: Tensor) -> "Sequences":
        """The sequences with these numbers, of the same memory."""
        return Sequences(self.input_ids, self.labels, self._chosen[numbers])


@dataclass(frozen=True)
class Padding:
    """Joins sequences into a batch, padded on the right.

    A batch has `input_ids` and `labels`, (batch, seq); `index`, (batch,); and `attention_mask`, (batch, seq), where the
    lengths differ.
    """

    pad_token_id: int

    def __call__(self, items: Sequence[Batch]) -> Batch:
        lengths = [len(item["input_ids"]) for item in items]
        longest = max(lengths)
        batch = {
            "input_ids": _stack([item["input_ids"] for item in items], longest, self.pad_token_id),
            "labels": _stack([item["labels"] for item in items], longest, IGNORED),
            "index": torch.stack([item["index"] for item in items]),
        }
        if min(lengths) < longest:
            batch["attention_mask"] = _stack([torch.ones(n, dtype=torch.int64) for n in lengths], longest, 0)
        return batch


def _stack(rows: Sequence[Tensor], length: int, fill: int) -> Tensor:
    stacked = torch.full((len(rows), length), fill, dtype=torch.int64)
    for target, row in zip(stacked, rows, strict=True):
        target[: len(row)] = row
    return stacked


def part_of_batch(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch, without the columns that are padding in all of them."""
    part = {name: tensor[rows] for name, tensor in batch.items()}
    mask = part.pop("attention_mask", None)
    if mask is None or bool(mask.all()):
        return part
    longest = int(mask.sum(1).max())
    part = {name: tensor[:, :longest] if tensor.dim() == 2 else tensor for name, tensor in part.items()}
    return part if bool(mask[:, :longest].all()) else {**part, "attention_mask": mask[:, :longest]}


def own_parts(batch: Batch, size: int) -> list[Batch]:
    """This process's rows of a batch of all processes, in parts of at most `size` rows.

    All processes have as many parts, since in each they put a sharded model together; one without rows for its last
    part, or without any, takes a row without labels.
    """
    rows = torch.arange(len(batch["input_ids"]))
    own = share(rows).tolist()
    first, most = own[0] if own else 0, math.ceil(len(rows) / process_count())
    parts = []
    for start in range(0, most, size):
        taken = slice(first + start, first + min(start + size, len(own)))
        empty = taken.start >= taken.stop
        parts.append(unscored(part_of_batch(batch, slice(0, 1))) if empty else part_of_batch(batch, taken))
    return parts


def unscored(batch: Batch) -> Batch:
    """The batch without labels: its loss and gradients are zero."""
    return {**batch, "labels": torch.full_like(batch["labels"], IGNORED)}


def scored_tokens(labels: Tensor) -> Tensor:
    """How many tokens of (batch, seq) labels have a loss: the first of a sequence has none."""
    return (labels[:, 1:] != IGNORED).sum()


def training_sequences(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, config: RecoverConfig
) -> tuple[Sequences, Sequences | None]:
    """Sequences of the data to train and to validate on, the latter None where `val_size` leaves none.

    Of several sources each gives its share of the windows and examples.

    Raises:
        DataError: the text is shorter than one window, no answer fits one, or the template refuses a conversation.
        InputError: validation would take all there is, or early stopping has nothing to look at.
    """

    def take(part: Corpus, limit: int | None) -> Sequences:
        if part.examples:
            return Sequences(
                *pack_examples(tokenizer, part.examples, config.seqlen, limit, config.seed, part.chat_template)
            )
        windows = token_windows(tokenizer, part, config.seqlen, limit=limit, seed=config.seed)
        return Sequences(windows, windows)

    if corpus.parts:
        sequences = _joined(mixed(corpus.parts, config.samples, take, corpus.name))
    else:
        sequences = take(corpus, config.samples)
    return _split(sequences, corpus.name, config)


def _joined(parts: Sequence[Sequences]) -> Sequences:
    """The sequences of several sources, one after the other."""
    ids: Any = ConcatDataset(cast(list[Any], [part.input_ids for part in parts]))
    labels: Any = ConcatDataset(cast(list[Any], [part.labels for part in parts]))
    return Sequences(ids, labels)


@dataclass(frozen=True)
class Amount:
    """How much there is to train on.

    Attributes:
        given: windows or examples that the data has; None where that is not known.
        kinds: what they are.
        written: whether any of it is written by a chat template or in Alpaca's form.
    """

    given: int | None
    kinds: tuple[str, ...]
    written: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, config: RecoverConfig) -> "Amount":
        """That of the data, all of it."""
        parts = [part for part, _ in corpus.parts] or [corpus]
        counts = [_amount_of(tokenizer, part, config.seqlen) for part in parts]
        kinds = dict.fromkeys("example" if part.examples else "window" for part in parts)
        given = None if None in counts else sum(count for count in counts if count is not None)
        return cls(given, tuple(kinds), "example" in kinds)

    def told(self, seen: int) -> str:
        """`1 of 800 examples`; without the number of all where it is not known."""
        nouns = self.kinds[0] if len(self.kinds) == 1 else "sequence"
        return counted(seen, nouns) if self.given is None else f"{seen:,} of {counted(self.given, nouns)}"


def _amount_of(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, seqlen: int) -> int | None:
    if corpus.is_stream:
        return None
    return len(corpus.examples) if corpus.examples else count_of_windows(tokenizer, corpus, seqlen)


def _split(sequences: Sequences, name: str, config: RecoverConfig) -> tuple[Sequences, Sequences | None]:
    total = len(sequences)
    apart = round(config.val_size * total) if config.val_size < 1 else int(config.val_size)
    if apart >= total:
        raise InputError(
            f"val_size {config.val_size:g} takes {apart:,} windows and {name} gives {total:,}, so none is left to "
            "train on; lower val_size, or give more text or samples"
        )
    if apart == 0:
        if config.early_stopping_patience is not None:
            raise InputError(
                f"early stopping needs a validation loss, and val_size {config.val_size:g} of {total:,} windows is "
                "none; raise val_size"
            )
        if config.val_size:
            logger.info(
                worded("Nothing is set apart for validation: --val-size %g of %s is none; --val-size 1 sets one apart"),
                config.val_size,
                counted(total, "window"),
            )
        return sequences, None
    order = torch.randperm(total, generator=torch.Generator().manual_seed(config.seed))
    return sequences.subset(order[apart:].sort().values), sequences.subset(order[:apart].sort().values)


def extra_windows(tokenizer: PreTrainedTokenizerBase, config: RecoverConfig) -> dict[str, Sequences]:
    """Windows of the texts named in `extra_eval`, their test parts. Raises `DataError`."""
    found = {}
    for name in config.extra_eval:
        corpus = load_corpus(name, "test", config)
        windows = token_windows(tokenizer, corpus, config.seqlen, limit=config.extra_eval_windows)
        found[name] = Sequences(windows, windows)
    return found
