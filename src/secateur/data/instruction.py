"""Instruction data as training sequences, with the loss on the answer only."""

import logging
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.data.corpus import IGNORED, Example, alpaca_prompt, content_fingerprint
from secateur.data.drawing import SCARCE, draw
from secateur.data.lazy import RowFile
from secateur.data.tokens import cached_tokens, choose, require_some, tokenize
from secateur.errors import DataError, InputError

_AT_ONCE = 256  # examples
Thing = TypeVar("Thing")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packed(Sequence[Tensor]):
    """Sequences of different lengths, kept end to end: 4 bytes a token.

    An item is a sequence, (length,) int64.

    Attributes:
        tokens: of all, (tokens,) int32.
        starts: where each begins, (sequences,).
        lengths: of each, (sequences,).
        ignored: how many tokens at its beginning are -100 instead, (sequences,).
    """

    tokens: Tensor
    starts: Tensor
    lengths: Tensor
    ignored: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> "Packed": ...

    def __getitem__(self, index: int | slice) -> "Tensor | Packed":
        if isinstance(index, slice):
            return Packed(self.tokens, self.starts[index], self.lengths[index], self.ignored[index])
        start = int(self.starts[index])
        sequence = self.tokens[start : start + int(self.lengths[index])].long()
        sequence[: int(self.ignored[index])] = IGNORED
        return sequence


def pack_examples(
    tokenizer: PreTrainedTokenizerBase,
    examples: Collection[Example],
    seqlen: int,
    limit: int | None = None,
    seed: int | None = None,
) -> tuple[Packed, Packed]:
    """Make training sequences: prompt, answer, end of text.

    A sequence is cut at `seqlen` tokens. An example of which that leaves no token of the answer is dropped,
    and the log says how many were. Sequences are not padded. Of a large file no more examples are read and tokenised
    than a limit asks for.

    Args:
        tokenizer: its end-of-text token ends each sequence, where it has one.
        examples: the instruction data, `Corpus.examples`.
        seqlen: most tokens in a sequence.
        limit: how many sequences to return at most; all by default.
        seed: with a limit, choose at random, in the examples' order; without a seed the first ones are taken.

    Returns:
        The tokens of each kept example, and its labels of the same length: -100 for the prompt.

    Raises:
        DataError: no example has a token of its answer within the first `seqlen`, or one that is reached is damaged.
        InputError: `seqlen` or `limit` is below 1.
    """
    if seqlen < 1:
        raise InputError(f"seqlen is {seqlen}; it must be at least 1")
    if limit is not None:
        require_some(limit, "examples")
    tokens, chosen = _chosen(tokenizer, examples, seqlen, limit, seed)
    starts = (tokens["lengths"].cumsum(0) - tokens["lengths"])[chosen]
    lengths, prompts = tokens["lengths"].clamp(max=seqlen)[chosen], tokens["prompt_lengths"][chosen]
    ids = tokens["input_ids"]
    return Packed(ids, starts, lengths, torch.zeros_like(prompts)), Packed(ids, starts, lengths, prompts)


def tokenize_examples(
    tokenizer: PreTrainedTokenizerBase,
    examples: Collection[Example],
    seqlen: int,
    limit: int | None = None,
    seed: int | None = None,
) -> list[dict[str, list[int]]]:
    """The sequences of `pack_examples` as lists, which take many times the memory.

    Returns:
        One dictionary per kept example: `input_ids`, and `labels` of the same length, -100 for the prompt.
    """
    packed = zip(*pack_examples(tokenizer, examples, seqlen, limit, seed), strict=True)
    return [{"input_ids": ids.tolist(), "labels": labels.tolist()} for ids, labels in packed]


def _chosen(
    tokenizer: PreTrainedTokenizerBase, examples: Collection[Example], seqlen: int, limit: int | None, seed: int | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Tokens of examples, as `_tokenize_all`, and which of them to take."""
    if isinstance(examples, RowFile) and limit is not None and SCARCE * limit < len(examples):
        tokens = _some(tokenizer, examples, seqlen, limit, seed)
        kept = _answered(tokens, seqlen)
        if len(kept) >= limit:
            _warn_of_dropped(len(kept), len(tokens["lengths"]), seqlen)
            return tokens, kept[:limit]
    tokens = cached_tokens(
        tokenizer,
        f"examples {tokenizer.eos_token_id}",
        _fingerprint(examples),
        lambda: _tokenize_all(tokenizer, examples),
        lambda tensors: _are_examples(tensors, len(examples)),
    )
    kept = _answered(tokens, seqlen)
    if len(kept) == 0:
        raise DataError(
            f"none of {len(examples):,} examples has any of its answer within the first {seqlen:,} tokens; "
            "raise --seqlen"
        )
    _warn_of_dropped(len(kept), len(examples), seqlen)
    return tokens, kept[choose(len(kept), limit, seed, "examples")]


def _some(
    tokenizer: PreTrainedTokenizerBase, examples: RowFile[Example], seqlen: int, limit: int, seed: int | None
) -> dict[str, Tensor]:
    """Tokens of the first examples of a large file, or of those drawn, until `limit` have an answer."""

    def make() -> dict[str, Tensor]:
        wanted = iter(examples) if seed is None else iter(_drawn(tokenizer, examples, seqlen, limit, seed))
        return _tokenize_all(tokenizer, wanted, None if seed is not None else (limit, seqlen))

    kind = f"examples {tokenizer.eos_token_id}, {limit} of {seqlen}, seed {seed}"
    return cached_tokens(tokenizer, kind, examples.fingerprint, make, _are_examples)


def _drawn(
    tokenizer: PreTrainedTokenizerBase, examples: RowFile[Example], seqlen: int, limit: int, seed: int
) -> list[Example]:
    """Examples at random, in the file's order, of which `limit` have an answer if so many of twice as many have."""
    calls = (partial(examples.content, row) for row in examples.raw())
    drawn, _ = draw(calls, 2 * limit + _AT_ONCE, seed)
    taken = []
    answered = 0
    for some in _batches(drawn):
        lengths = _tokenize_all(tokenizer, [example for _, example in some])
        for (number, example), has_answer in zip(some, _has_answer(lengths, seqlen).tolist(), strict=True):
            if answered < limit:
                taken.append((number, example))
                answered += has_answer
    return [example for _, example in sorted(taken, key=lambda found: found[0])]


def _fingerprint(examples: Collection[Example]) -> str:
    return examples.fingerprint if isinstance(examples, RowFile) else content_fingerprint([], list(examples))


def _has_answer(tokens: Mapping[str, Tensor], seqlen: int) -> Tensor:
    return tokens["prompt_lengths"] < tokens["lengths"].clamp(max=seqlen)


def _answered(tokens: Mapping[str, Tensor], seqlen: int) -> Tensor:
    return _has_answer(tokens, seqlen).nonzero().flatten()


def _warn_of_dropped(kept: int, count: int, seqlen: int) -> None:
    if kept < count:
        logger.warning(
            "%s of %s examples are left out: nothing of their answer is within the first %s tokens",
            f"{count - kept:,}",
            f"{count:,}",
            f"{seqlen:,}",
        )


def _tokenize_all(
    tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example], enough: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """Examples uncut: `input_ids` end to end, and per example `lengths` and `prompt_lengths`.

    Args:
        tokenizer: makes the ids.
        examples: gone through once.
        enough: stop where so many have an answer within so many tokens.
    """
    ids, lengths, prompt_lengths = array("i"), array("q"), array("q")
    answered = 0
    for sequence, prompt in _sequences(tokenizer, examples):
        ids.extend(sequence)
        lengths.append(len(sequence))
        prompt_lengths.append(prompt)
        if enough is not None:
            answered += prompt < min(len(sequence), enough[1])
            if answered == enough[0]:
                break
    return {
        "input_ids": torch.frombuffer(ids, dtype=torch.int32) if ids else torch.zeros(0, dtype=torch.int32),
        "lengths": torch.tensor(lengths, dtype=torch.int64),
        "prompt_lengths": torch.tensor(prompt_lengths, dtype=torch.int64),
    }


def _sequences(tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example]) -> Iterator[tuple[list[int], int]]:
    """The ids of each example, and how many of them are the prompt's."""
    for some in _batches(examples):
        prompts = [alpaca_prompt(example) for example in some]
        texts = [prompt + example.output for prompt, example in zip(prompts, some, strict=True)]
        sequences = [_ended(tokenizer, ids) for ids in tokenize(tokenizer, texts)]
        # Tokenised as one text, an answer gets no leading space of its own, as some tokenizers would give it. The
        # prompt ends where its own tokens end to agree: a token that reaches over the border counts as answer.
        for ids, prompt in zip(sequences, tokenize(tokenizer, prompts), strict=True):
            yield ids, _shared(ids, prompt)


def _batches(things: Iterable[Thing]) -> Iterator[list[Thing]]:
    rest = iter(things)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


def _are_examples(tensors: Mapping[str, Tensor], count: int | None = None) -> bool:
    if tensors.keys() != {"input_ids", "lengths", "prompt_lengths"}:
        return False
    ids, lengths, prompts = (tensors[name] for name in ("input_ids", "lengths", "prompt_lengths"))
    if any(sizes.dtype != torch.int64 or sizes.dim() != 1 for sizes in (lengths, prompts)):
        return False
    if len(lengths) != len(prompts) or count not in (None, len(lengths)):
        return False
    return bool((prompts >= 0).all() and (prompts <= lengths).all()) and ids.shape == (int(lengths.sum()),)


def _ended(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    end: Any = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _shared(ids: list[int], prompt: list[int]) -> int:
    pairs = enumerate(zip(ids, prompt, strict=False))
    return next((place for place, (token, other) in pairs if token != other), min(len(ids), len(prompt)))
