"""Choosing at random in a text that is too large to be tokenised for it.

The text is gone through once, a block of characters at a time, and blocks are drawn by random numbers; only those drawn
are parsed and tokenised, and each gives one window. So windows share no text, and the same seed draws the same ones; of
a larger number those of a smaller one are a part.
"""

import heapq
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.data.corpus import Corpus
from secateur.data.lazy import Rows, TextFile
from secateur.data.pieces import in_sizes
from secateur.data.tokens import cached_tokens, tokenize

BLOCK = 16  # characters of a block for each token of a window
_LEAST_BLOCK = 1 << 10
SCARCE = 4  # a text of fewer blocks for each window is tokenised as a whole
_LOOKED_AT = 100  # rows from which is told how much of a file is text
_WORD = 256  # characters within which a block's first word ends

Drawn = TypeVar("Drawn")
logger = logging.getLogger(__name__)


def drawn_windows(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, seqlen: int, limit: int, seed: int
) -> Tensor | None:
    """Windows of a large text, in its order, chosen by the seed, each from a block of its own.

    Returns:
        Token ids, (limit, seqlen) int32; None where so many are wanted that the text is better tokenised as a whole.

    Raises:
        DataError: a file is damaged where it is reached.
    """

    def make() -> dict[str, Tensor]:
        windows = _windows(tokenizer, corpus, seqlen, limit, seed)
        return {"input_ids": torch.zeros(0, seqlen, dtype=torch.int32) if windows is None else windows}

    def fits(tensors: Mapping[str, Tensor]) -> bool:
        return tensors.keys() == {"input_ids"} and tensors["input_ids"].shape in ((limit, seqlen), (0, seqlen))

    kind = f"{limit} windows of {seqlen} drawn by {seed} {corpus.separator!r}"
    found = cached_tokens(tokenizer, kind, corpus.fingerprint, make, fits)["input_ids"]
    return found if len(found) else None


def _windows(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, seqlen: int, limit: int, seed: int) -> Tensor | None:
    spare = limit // 2 + 16  # blocks of long tokens do not fill a window
    drawn, count = draw(_blocks(corpus, max(_LEAST_BLOCK, BLOCK * seqlen)), limit + spare, seed)
    if count < SCARCE * limit:
        return None
    windows: list[tuple[int, Tensor]] = []
    for number, text in drawn:
        ids = tokenize(tokenizer, [text], special=False)[0]
        if len(ids) >= seqlen:
            windows.append((number, torch.tensor(ids[:seqlen], dtype=torch.int32)))
        if len(windows) == limit:
            return torch.stack([window for _, window in sorted(windows, key=lambda found: found[0])])
    return None


def draw(items: Iterable[Callable[[], Drawn]], count: int, seed: int) -> tuple[list[tuple[int, Drawn]], int]:
    """Some of many things, each as likely as another.

    Args:
        items: gone through once; called where one is drawn so far.
        count: how many are wanted at most.
        seed: of the choice.

    Returns:
        The things with their numbers, in random order: the first few are what is drawn where fewer are wanted. And how
        many there were.
    """
    # Python promises that random() gives the same numbers in every version.
    chance = random.Random(seed)
    held: list[tuple[float, int, Drawn]] = []
    number = -1
    for number, item in enumerate(items):
        rank = -chance.random()
        if len(held) < count:
            heapq.heappush(held, (rank, -number, item()))
        elif rank > held[0][0]:
            heapq.heapreplace(held, (rank, -number, item()))
    ordered = sorted(held, key=lambda found: found[:2], reverse=True)
    return [(-negative, drawn) for _, negative, drawn in ordered], number + 1


def _blocks(corpus: Corpus, size: int) -> Iterator[Callable[[], str]]:
    """The text in blocks of about `size` characters, none parsed before it is called."""
    if isinstance(corpus.documents, TextFile):
        yield from _cut(corpus.documents.blocks(), size)
    elif isinstance(corpus.documents, Rows):
        yield from _joined_rows(corpus.documents, str, corpus.separator, size)
    elif isinstance(corpus.examples, Rows):
        yield from _joined_rows(corpus.examples, corpus.as_text, corpus.separator, size)
    else:
        for text in corpus.documents:
            yield from _cut([text], size)


def _cut(texts: Iterable[str], size: int) -> Iterator[Callable[[], str]]:
    for number, text in enumerate(in_sizes(texts, size)):
        yield partial(_from_a_word, text) if number else partial(str, text)


def _from_a_word(text: str) -> str:
    """The text without the end of a word that it may begin with."""
    blank = next((place for place, character in enumerate(text[:_WORD]) if character.isspace()), 0)
    return text[blank:]


def _joined_rows(rows: Rows, to_text: Callable[..., str], separator: str, size: int) -> Iterator[Callable[[], str]]:
    """Blocks of whole rows; a row that is longer than two blocks is cut."""

    def joined(taken: list) -> str:
        return separator.join(to_text(rows.content(row)) for row in taken)

    stored = size * _stored_size(rows, to_text)
    held: list = []
    length = 0.0
    for row in rows.raw():
        if row.size > 2 * stored:
            yield from _cut([to_text(rows.content(row))], size)
            continue
        held.append(row)
        length += row.size
        if length >= stored:
            yield partial(joined, held)
            held, length = [], 0.0
    if held:
        yield partial(joined, held)


def _stored_size(rows: Rows, to_text: Callable[..., str]) -> float:
    """How much a file takes for a character of text, by its first rows."""
    first = list(islice(rows.raw(), _LOOKED_AT))
    characters = sum(len(to_text(rows.content(row))) for row in first)
    return sum(row.size for row in first) / max(1, characters)
