"""Instruction data and conversations as training sequences, with the loss on the answers only."""

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

from secateur.data.chat import ALPACA, Spans, Template, template_of
from secateur.data.corpus import IGNORED, Answered, Example, alpaca_prompt, content_fingerprint
from secateur.data.drawing import SCARCE, draw
from secateur.data.lazy import Rows
from secateur.data.memory import RowStream
from secateur.data.tokens import cached_tokens, choose, require_some, tokenize
from secateur.errors import DataError, InputError

_AT_ONCE = 256  # examples
Thing = TypeVar("Thing")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packed(Sequence[Tensor]):
    """Sequences of different lengths, kept end to end: 5 bytes a token.

    An item is a sequence, (length,) int64.

    Attributes:
        tokens: of all, (tokens,) int32.
        starts: where each begins, (sequences,).
        lengths: of each, (sequences,).
        trained: which tokens stay as they are, (tokens,) uint8; all others are -100 instead. None: all stay.
    """

    tokens: Tensor
    starts: Tensor
    lengths: Tensor
    trained: Tensor | None = None

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> "Packed": ...

    def __getitem__(self, index: int | slice) -> "Tensor | Packed":
        if isinstance(index, slice):
            return Packed(self.tokens, self.starts[index], self.lengths[index], self.trained)
        start = int(self.starts[index])
        end = start + int(self.lengths[index])
        sequence = self.tokens[start:end].long()
        if self.trained is not None:
            sequence[self.trained[start:end] == 0] = IGNORED
        return sequence


def pack_examples(
    tokenizer: PreTrainedTokenizerBase,
    examples: Collection[Answered],
    seqlen: int,
    limit: int | None = None,
    seed: int | None = None,
    chat_template: str | None = ALPACA,
) -> tuple[Packed, Packed]:
    """Make training sequences: whole conversations, or in Alpaca's form prompt, answer, end of text.

    A sequence is cut at `seqlen` tokens. An example of which that leaves no token of the answer is dropped,
    and the log says how many were. Sequences are not padded. Of a large file no more examples are read and tokenised
    than a limit asks for.

    Args:
        tokenizer: in Alpaca's form its end-of-text token ends each sequence, where it has one.
        examples: instruction data and conversations, `Corpus.examples`.
        seqlen: most tokens in a sequence.
        limit: how many sequences to return at most; all by default.
        seed: with a limit, choose at random, in the examples' order; without a seed the first ones are taken.
        chat_template: `Corpus.chat_template`: what they are written in.

    Returns:
        The tokens of each kept example, and its labels of the same length: -100 but for the assistant's turns.

    Raises:
        DataError: no example has a token of its answer within the first `seqlen`, one that is reached is damaged, or
            the template refuses one.
        InputError: `seqlen` or `limit` is below 1, the template cannot be used, or a stream has no limit.
    """
    if seqlen < 1:
        raise InputError(f"seqlen is {seqlen}; it must be at least 1")
    if limit is not None:
        require_some(limit, "examples")
    tokens, chosen = _chosen(
        _Tokenizing(tokenizer, template_of(tokenizer, chat_template)), examples, seqlen, limit, seed
    )
    starts = (tokens["lengths"].cumsum(0) - tokens["lengths"])[chosen]
    lengths = tokens["lengths"].clamp(max=seqlen)[chosen]
    ids = tokens["input_ids"]
    return Packed(ids, starts, lengths), Packed(ids, starts, lengths, tokens["trained"])


def tokenize_examples(
    tokenizer: PreTrainedTokenizerBase,
    examples: Collection[Answered],
    seqlen: int,
    limit: int | None = None,
    seed: int | None = None,
    chat_template: str | None = ALPACA,
) -> list[dict[str, list[int]]]:
    """The sequences of `pack_examples` as lists, which take many times the memory.

    Returns:
        One dictionary per kept example: `input_ids`, and `labels` of the same length, -100 but for answers.
    """
    packed = zip(*pack_examples(tokenizer, examples, seqlen, limit, seed, chat_template), strict=True)
    return [{"input_ids": ids.tolist(), "labels": labels.tolist()} for ids, labels in packed]


@dataclass(frozen=True)
class _Tokenizing:
    """What makes tokens of examples."""

    tokenizer: PreTrainedTokenizerBase
    template: Template

    @property
    def kind(self) -> str:
        """What tells its tokens apart from another one's."""
        return f"examples {self.tokenizer.eos_token_id} {self.template.fingerprint}"


def _chosen(
    tokenizing: _Tokenizing, examples: Collection[Answered], seqlen: int, limit: int | None, seed: int | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Tokens of examples, as `_tokenize_all`, and which of them to take."""
    if isinstance(examples, RowStream):
        tokens = _tokenize_all(tokenizing, examples, (examples.require_limit(limit, "samples"), seqlen))
        kept = _answered(tokens, seqlen)
        _require_answers(len(kept), len(tokens["lengths"]), seqlen)
        return tokens, kept
    if isinstance(examples, Rows) and limit is not None and SCARCE * limit < len(examples):
        tokens = _some(tokenizing, examples, seqlen, limit, seed)
        kept = _answered(tokens, seqlen)
        if len(kept) >= limit:
            _warn_of_dropped(len(kept), len(tokens["lengths"]), seqlen)
            return tokens, kept[:limit]
    tokens = cached_tokens(
        tokenizing.tokenizer,
        tokenizing.kind,
        _fingerprint(examples),
        lambda: _tokenize_all(tokenizing, examples),
        lambda tensors: _are_examples(tensors, len(examples)),
    )
    kept = _answered(tokens, seqlen)
    _require_answers(len(kept), len(examples), seqlen)
    return tokens, kept[choose(len(kept), limit, seed, "examples")]


def _require_answers(kept: int, count: int, seqlen: int) -> None:
    if kept == 0:
        raise DataError(
            f"none of {count:,} examples has any of its answer within the first {seqlen:,} tokens; raise --seqlen"
        )
    _warn_of_dropped(kept, count, seqlen)


def _some(
    tokenizing: _Tokenizing, examples: Rows[Answered], seqlen: int, limit: int, seed: int | None
) -> dict[str, Tensor]:
    """Tokens of the first examples of a large file, or of those drawn, until `limit` have an answer."""

    def make() -> dict[str, Tensor]:
        wanted = iter(examples) if seed is None else iter(_drawn(tokenizing, examples, seqlen, limit, seed))
        return _tokenize_all(tokenizing, wanted, None if seed is not None else (limit, seqlen))

    kind = f"{tokenizing.kind}, {limit} of {seqlen}, seed {seed}"
    return cached_tokens(tokenizing.tokenizer, kind, examples.fingerprint, make, _are_examples)


def _drawn(tokenizing: _Tokenizing, examples: Rows[Answered], seqlen: int, limit: int, seed: int) -> list[Answered]:
    """Examples at random, in the file's order, of which `limit` have an answer if so many of twice as many have."""
    calls = (partial(examples.content, row) for row in examples.raw())
    drawn, _ = draw(calls, 2 * limit + _AT_ONCE, seed)
    taken = []
    answered = 0
    for some in _batches(drawn):
        tokens = _tokenize_all(tokenizing, [example for _, example in some])
        for (number, example), has_answer in zip(some, _has_answer(tokens, seqlen).tolist(), strict=True):
            if answered < limit:
                taken.append((number, example))
                answered += has_answer
    return [example for _, example in sorted(taken, key=lambda found: found[0])]


def _fingerprint(examples: Collection[Answered]) -> str:
    return examples.fingerprint if isinstance(examples, Rows) else content_fingerprint([], list(examples))


def _has_answer(tokens: Mapping[str, Tensor], seqlen: int) -> Tensor:
    """Of each example whether one of its first tokens has a loss, (examples,) bool: the first of all has none."""
    lengths = tokens["lengths"]
    starts = lengths.cumsum(0) - lengths
    before = torch.cat([torch.zeros(1, dtype=torch.int64), tokens["trained"].cumsum(0, dtype=torch.int64)])
    first = (starts + 1).minimum(starts + lengths)
    return before[starts + lengths.clamp(max=seqlen)] > before[first]


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
    tokenizing: _Tokenizing, examples: Iterable[Answered], enough: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """Examples uncut: `input_ids` and `trained` end to end, and `lengths` per example.

    Args:
        tokenizing: makes the ids.
        examples: gone through once.
        enough: stop where so many have an answer within so many tokens.
    """
    ids, trained, lengths = array("i"), array("B"), array("q")
    answered = 0
    for sequence, mask in _sequences(tokenizing, examples):
        ids.extend(sequence)
        trained.extend(mask)
        lengths.append(len(sequence))
        if enough is not None:
            answered += any(mask[1 : enough[1]])
            if answered == enough[0]:
                break
    return {
        "input_ids": torch.frombuffer(ids, dtype=torch.int32) if ids else torch.zeros(0, dtype=torch.int32),
        "trained": torch.frombuffer(trained, dtype=torch.uint8) if trained else torch.zeros(0, dtype=torch.uint8),
        "lengths": torch.tensor(lengths, dtype=torch.int64),
    }


def _sequences(tokenizing: _Tokenizing, examples: Iterable[Answered]) -> Iterator[tuple[list[int], Sequence[int]]]:
    """The ids of each example, and for each of them 1 where it has a loss."""
    for some in _batches(examples):
        if tokenizing.template.source is None and all(isinstance(example, Example) for example in some):
            yield from _alpaca_sequences(tokenizing.tokenizer, [item for item in some if isinstance(item, Example)])
        else:
            yield from _chat_sequences(tokenizing, some)


def _alpaca_sequences(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example]
) -> Iterator[tuple[list[int], Sequence[int]]]:
    prompts = [alpaca_prompt(example) for example in examples]
    texts = [prompt + example.output for prompt, example in zip(prompts, examples, strict=True)]
    sequences = [_ended(tokenizer, ids) for ids in tokenize(tokenizer, texts)]
    # Tokenised as one text, an answer gets no leading space of its own, as some tokenizers would give it. The
    # prompt ends where its own tokens end to agree: a token that reaches over the border counts as answer.
    for ids, prompt in zip(sequences, tokenize(tokenizer, prompts), strict=True):
        before = _shared(ids, prompt)
        yield ids, [0] * before + [1] * (len(ids) - before)


def _chat_sequences(tokenizing: _Tokenizing, examples: list[Answered]) -> Iterator[tuple[list[int], Sequence[int]]]:
    tokenizer, template = tokenizing.tokenizer, tokenizing.template
    written = [template.text_and_spans(example) for example in examples]
    special = template.source is None  # a template writes the special tokens itself
    encoded = tokenizer(
        [text for text, _ in written],
        add_special_tokens=special,
        return_attention_mask=False,
        return_offsets_mapping=tokenizer.is_fast,
        verbose=False,
    )
    for number, (text, spans) in enumerate(written):
        ids = encoded["input_ids"][number]
        if tokenizer.is_fast:
            yield ids, _mask_by_places(encoded["offset_mapping"][number], spans)
        else:
            yield ids, _mask_by_prefixes(tokenizer, ids, text, spans, special)


def _mask_by_places(places: Sequence[tuple[int, int]], spans: Spans) -> bytearray:
    """Which tokens have a loss: the first that reaches into a span, up to the last that begins in it."""
    mask = bytearray(len(places))
    for start, end in spans:
        within = [number for number, (first, last) in enumerate(places) if last > start and first < end]
        if within:
            mask[within[0] : within[-1] + 1] = b"\1" * (within[-1] + 1 - within[0])
    return mask


def _mask_by_prefixes(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str, spans: Spans, special: bool
) -> bytearray:
    """The same by a tokenizer that does not tell the places of its tokens."""
    mask = bytearray(len(ids))
    for start, end in spans:
        before, after = tokenize(tokenizer, [text[:start], text[:end]], special)
        first, last = _shared(ids, before), _shared(ids, after)
        mask[first:last] = b"\1" * max(0, last - first)
    return mask


def _batches(things: Iterable[Thing]) -> Iterator[list[Thing]]:
    rest = iter(things)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


def _are_examples(tensors: Mapping[str, Tensor], count: int | None = None) -> bool:
    if tensors.keys() != {"input_ids", "trained", "lengths"}:
        return False
    ids, trained, lengths = (tensors[name] for name in ("input_ids", "trained", "lengths"))
    if lengths.dtype != torch.int64 or lengths.dim() != 1 or trained.dtype != torch.uint8:
        return False
    if count not in (None, len(lengths)) or trained.shape != ids.shape or not bool((lengths >= 0).all()):
        return False
    return bool((trained <= 1).all()) and ids.shape == (int(lengths.sum()),)


def _ended(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    end: Any = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _shared(ids: list[int], prompt: list[int]) -> int:
    pairs = enumerate(zip(ids, prompt, strict=False))
    return next((place for place, (token, other) in pairs if token != other), min(len(ids), len(prompt)))
