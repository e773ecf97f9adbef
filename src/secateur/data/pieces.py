"""A text in pieces, and its tokens made a piece at a time.

A fast tokenizer needs some 250 bytes of memory for a token while it works, so that a text of 300 MB would need tens of
gigabytes. Pieces overlap, and their tokens are joined where both have the same ones in the same places: there the
tokenizer has come to terms with the cut, and the ids are those of the whole text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import BatchEncoding, PreTrainedTokenizerBase

from secateur.data.corpus import Corpus
from secateur.data.lazy import TextFile

PIECE = 1 << 19  # characters that are tokenised at once; a text of fewer is not cut
_OVERLAP = 1 << 12  # characters that two pieces have in common
_AGREEING = 16  # tokens before and after a seam that must be the same

Ids = NDArray[np.int32]


def pieces_of(corpus: Corpus, size: int = PIECE) -> Iterator[str]:
    """The corpus as one text, `Corpus.text`, in strings of `size` characters, the last one shorter.

    Raises:
        DataError: a file is damaged where it is reached.
    """
    return in_sizes(_strings(corpus), size)


def in_sizes(texts: Iterable[str], size: int) -> Iterator[str]:
    """Strings joined and cut into ones of `size` characters, the last one shorter."""
    held: list[str] = []
    length = 0
    for text in texts:
        held.append(text)
        length += len(text)
        if length < size:
            continue
        whole = "".join(held)
        end = length - length % size
        yield from (whole[start : start + size] for start in range(0, end, size))
        held, length = [whole[end:]], length - end
    if length:
        yield "".join(held)


def _strings(corpus: Corpus) -> Iterator[str]:
    """Strings that are the corpus's text, one after the other."""
    if isinstance(corpus.documents, TextFile):
        yield from corpus.documents.blocks()
        return
    for number, text in enumerate(chain(corpus.documents, map(corpus.as_text, corpus.examples))):
        if number:
            yield corpus.separator
        yield text


def token_pieces(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, size: int = PIECE) -> Iterator[Ids]:
    """The token ids of a corpus as one text, nothing read and tokenised before it is asked for.

    The special tokens that the tokenizer adds by default stand at the text's ends only. The ids are those of the text
    tokenised at once, unless it holds a run of thousands of characters that the tokenizer does not split (a line of
    letters without a blank), or it tells no places of its tokens: then a few at the seams may differ.

    Args:
        tokenizer: makes the ids.
        corpus: plain text, or instruction data, which is then read as plain text.
        size: characters that are tokenised at once; at least twice as many as pieces have in common.

    Yields:
        Ids, (tokens,) int32.

    Raises:
        DataError: a file is damaged where it is reached.
    """
    following = pieces_of(corpus, size)
    text = next(following, "")
    ahead = next(following, None)
    if ahead is None:
        yield np.asarray(_encoded(tokenizer, text, corpus.adds_special)["input_ids"], np.int32)
        return
    none = np.zeros(0, np.int32)
    first, last = _ends(tokenizer) if corpus.adds_special else (none, none)
    yield first
    joined = _overlapping if getattr(tokenizer, "backend_tokenizer", None) is not None else _broken_at_blanks
    yield from joined(tokenizer, text, chain([ahead], following))
    yield last


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = True) -> BatchEncoding:
    return tokenizer(
        text, add_special_tokens=special, truncation=False, padding=False, return_attention_mask=False, verbose=False
    )


def _ends(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids]:
    """The special tokens before and after a text."""
    full, bare = (np.asarray(_encoded(tokenizer, "a", special)["input_ids"], np.int32) for special in (True, False))
    for start in range(len(full) - len(bare) + 1):
        if np.array_equal(full[start : start + len(bare)], bare):
            return full[:start], full[start + len(bare) :]
    return full[:0], full[:0]


def _overlapping(tokenizer: PreTrainedTokenizerBase, text: str, following: Iterable[str]) -> Iterator[Ids]:
    """Ids without special tokens, by a tokenizer that tells the places of its tokens."""
    made = _Tokens.of(tokenizer, text)
    done = 0  # tokens of this piece that the one before it has given
    for ahead in following:
        start = len(text) - _OVERLAP
        text = text[start:] + ahead
        tail = made.tail(start)
        # What is before the overlap is certain, and may be all that is wanted.
        certain = len(made.ids) - len(tail)
        yield made.ids[done:certain]
        after = _Tokens.of(tokenizer, text)
        kept, dropped = _seam(tail, after.head())
        yield made.ids[certain : certain + kept]
        made, done = after, dropped
    yield made.ids[done:]


class _Token(NamedTuple):
    """A token of the overlap: its id, its characters there, and the number of its word in its piece."""

    id: int
    start: int
    end: int
    word: int | None


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a piece."""

    ids: Ids
    encoding: Encoding

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, text: str) -> "_Tokens":
        encoding = _encoded(tokenizer, text, special=False)[0]
        return cls(np.asarray(encoding.ids, np.int32), encoding)

    def tail(self, start: int) -> list[_Token]:
        """Those from character `start` on."""
        found = takewhile(lambda token: token.start >= 0, (self._at(i, start) for i in reversed(range(len(self.ids)))))
        return list(found)[::-1]

    def head(self) -> list[_Token]:
        """Those that begin in the first characters, which the piece before has as well."""
        return list(takewhile(lambda token: token.start < _OVERLAP, (self._at(i, 0) for i in range(len(self.ids)))))

    def _at(self, number: int, shift: int) -> _Token:
        start, end = self.encoding.token_to_chars(number) or (shift, shift)
        return _Token(int(self.ids[number]), start - shift, end - shift, self.encoding.token_to_word(number))


def _seam(before: Sequence[_Token], after: Sequence[_Token]) -> tuple[int, int]:
    """Where two views of the same characters are joined.

    Returns:
        How many tokens of the first are kept, and how many of the second dropped: near the middle, where both have the
        same tokens on both sides, and if there is one where a word ends, since a tokenizer takes each for itself.
    """
    numbers = {token[:3]: number for number, token in enumerate(after)}
    middle = _OVERLAP // 2
    spots = range(_AGREEING, len(before) - _AGREEING + 1)
    within_a_word = None
    for spot in sorted(spots, key=lambda spot: abs(before[spot - 1].end - middle)):
        last = numbers.get(before[spot - 1][:3])
        if last is None or not _agree(before, spot, after, last + 1):
            continue
        if _ends_a_word(before, spot) and _ends_a_word(after, last + 1):
            return spot, last + 1
        within_a_word = within_a_word or (spot, last + 1)
    return within_a_word or _common_border(before, after, middle)


def _common_border(before: Sequence[_Token], after: Sequence[_Token], middle: int) -> tuple[int, int]:
    """Where a token ends in one and begins in the other, near the middle, so that no character is lost or doubled."""
    begun = {token.start: place for place, token in reversed(list(enumerate(after)))}
    borders = [(spot + 1, begun[token.end]) for spot, token in enumerate(before) if token.end in begun]
    if borders:
        return min(borders, key=lambda border: abs(after[border[1]].start - middle))
    return sum(token.start < middle for token in before), sum(token.start < middle for token in after)


def _agree(one: Sequence[_Token], spot: int, other: Sequence[_Token], place: int) -> bool:
    if place < _AGREEING or place + _AGREEING > len(other):
        return False
    pairs = zip(one[spot - _AGREEING : spot + _AGREEING], other[place - _AGREEING : place + _AGREEING], strict=True)
    return all(token[:3] == same[:3] for token, same in pairs)


def _ends_a_word(tokens: Sequence[_Token], spot: int) -> bool:
    return tokens[spot - 1].word != tokens[spot].word


def _broken_at_blanks(tokenizer: PreTrainedTokenizerBase, text: str, following: Iterable[str]) -> Iterator[Ids]:
    """Ids without special tokens, by a tokenizer that tells no places: pieces end with a line, or a word."""
    for ahead in following:
        start = len(text) - _OVERLAP
        line = text.rfind("\n", start) + 1
        end = line or max(text.rfind(" ", start), 0) or len(text)
        yield np.asarray(_encoded(tokenizer, text[:end], special=False)["input_ids"], np.int32)
        text = text[end:] + ahead
    yield np.asarray(_encoded(tokenizer, text, special=False)["input_ids"], np.int32)
