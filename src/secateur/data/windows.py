"""A text as windows of tokens, all of one length."""

from array import array

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.data.chat import rendered
from secateur.data.corpus import Corpus
from secateur.data.drawing import BLOCK, drawn_windows
from secateur.data.pieces import PIECE, token_pieces
from secateur.data.sources import mixed
from secateur.data.tokens import cached_tokens, choose, require_some
from secateur.errors import DataError, InputError

_LEAST_READ = 1 << 14  # characters of a stream


def token_windows(
    tokenizer: PreTrainedTokenizerBase | None,
    corpus: Corpus,
    seqlen: int,
    *,
    limit: int | None = None,
    stride: int | None = None,
    seed: int | None = None,
) -> Tensor:
    """Join a corpus, tokenise it as one text, and cut it into windows.

    What does not fill a window at the end is left out. The tokens are kept in the cache directory and reused.

    Of a large text (`Corpus.large`) no more is tokenised than a limit asks for. Without a seed the windows are the
    first ones of the text, as ever. With a seed they are drawn by places: each stands alone, its beginning found by the
    characters of the text and not by counting the tokens before it. All windows take 12 bytes of memory a token.

    Args:
        tokenizer: adds the special tokens it adds by default, at the text's ends only. None will do for tokens.
        corpus: plain text, or instruction data and conversations as their template writes them. Of several sources
            each gives its share of the windows, one after the other.
        seqlen: tokens in a window.
        limit: how many windows to return at most; all by default.
        stride: tokens from the start of one window to the start of the next, at most `seqlen` (the default).
        seed: with a limit, choose at random, in the text's order; without a seed the first ones are taken.

    Returns:
        Token ids, (windows, seqlen) int64.

    Raises:
        DataError: the text is shorter than one window, or a file is damaged where it is reached.
        InputError: `seqlen` or `limit` is below 1, `stride` is not between 1 and `seqlen`, or there is no tokenizer and
            the corpus is no tokens.
    """
    step = seqlen if stride is None else stride
    if seqlen < 1:
        raise InputError(f"seqlen is {seqlen}; it must be at least 1")
    if not 1 <= step <= seqlen:
        raise InputError(f"stride is {step}; it must be between 1 and seqlen, {seqlen}")
    if limit is not None:
        require_some(limit, f"windows of {corpus.name}")
    if corpus.parts:

        def take(part: Corpus, count: int | None) -> Tensor:
            return token_windows(tokenizer, part, seqlen, limit=count, stride=stride, seed=seed)

        return torch.cat(mixed(corpus.parts, limit, take, corpus.name))
    if tokenizer is None:
        if corpus.tokens is None:
            raise InputError(f"tokenizer= is None; give the model's, to read {corpus.name} with, or tokens as data")
        return _windows_of(corpus.tokens, corpus, seqlen, step, limit, seed)
    corpus = rendered(corpus, tokenizer)
    if corpus.is_stream:
        if limit is None:
            raise InputError(f"{corpus.name} has no end that is known; say how many windows of it to take")
        seed = None  # its beginning is all that is read
    if limit is not None and corpus.large and seed is not None:
        drawn = drawn_windows(tokenizer, corpus, seqlen, limit, seed)
        if drawn is not None:
            return drawn.long()
    first = None if limit is None or seed is not None else (limit - 1) * step + seqlen
    return _windows_of(corpus_tokens(tokenizer, corpus, first), corpus, seqlen, step, limit, seed)


def _windows_of(tokens: Tensor, corpus: Corpus, seqlen: int, step: int, limit: int | None, seed: int | None) -> Tensor:
    """Windows of the tokens of one text, (tokens,), or within rows of them, (rows, length)."""
    if tokens.dim() == 2:
        return _windows_of_rows(tokens, corpus, seqlen, step, limit, seed)
    if len(tokens) < seqlen:
        raise DataError(
            f"{corpus.name} has {len(tokens):,} tokens and one window needs {seqlen:,}; "
            "give a longer text or a smaller --seqlen"
        )
    windows = tokens.unfold(0, seqlen, step)  # (windows, seqlen), a view
    return windows[choose(len(windows), limit, seed, f"windows of {corpus.name}")].long()


def _windows_of_rows(
    rows: Tensor, corpus: Corpus, seqlen: int, step: int, limit: int | None, seed: int | None
) -> Tensor:
    """Windows within rows of tokens, (rows, length)."""
    if rows.shape[1] < seqlen:
        raise DataError(f"{corpus.name}: one window needs {seqlen:,}; pass longer ones, or a smaller seqlen")
    windows = rows.unfold(1, seqlen, step).flatten(0, 1)  # (rows, windows of each, seqlen) -> (windows, seqlen)
    return windows[choose(len(windows), limit, seed, f"windows of {corpus.name}")]


def count_of_windows(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, seqlen: int) -> int | None:
    """How many windows a corpus has; None where that is only known once all of a large one is tokenised."""
    if corpus.parts:
        counts = [count_of_windows(tokenizer, part, seqlen) for part, _ in corpus.parts]
        return None if None in counts else sum(count for count in counts if count is not None)
    if corpus.large:
        return None
    tokens = corpus_tokens(tokenizer, rendered(corpus, tokenizer))
    return tokens.numel() // seqlen if tokens.dim() == 1 else len(tokens) * (tokens.shape[1] // seqlen)


def corpus_tokens(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, most: int | None = None) -> Tensor:
    """The token ids of a corpus as one text, (tokens,) int32, or those given as tokens, (tokens,) or (rows, length).

    Args:
        tokenizer: adds the special tokens it adds by default, at the text's ends only.
        corpus: plain text or instruction data.
        most: how many are wanted; a large text is tokenised no further.

    Raises:
        DataError: a file is damaged where it is reached.
    """

    def make() -> dict[str, Tensor]:
        found = array("i")
        # Of a stream little more is read than is used.
        size = min(PIECE, max(_LEAST_READ, BLOCK * (most or 0))) if corpus.is_stream else PIECE
        for some in token_pieces(tokenizer, corpus, size):
            found.frombytes(some.tobytes())
            if wanted is not None and len(found) >= wanted:
                break
        ids = torch.frombuffer(found, dtype=torch.int32) if found else torch.zeros(0, dtype=torch.int32)
        return {"input_ids": ids[:wanted]}

    if corpus.tokens is not None:
        known = max(len(tokenizer), max(tokenizer.get_vocab().values(), default=0) + 1)
        if int(corpus.tokens.max()) >= known:
            raise DataError(f"{corpus.name}: {int(corpus.tokens.max()):,} is no token of the tokenizer's {known:,}")
        return corpus.tokens
    wanted = most if corpus.large else None
    if corpus.is_stream:
        return make()["input_ids"]
    kind = f"text {corpus.separator!r}" + ("" if wanted is None else f", first {wanted}")
    return cached_tokens(tokenizer, kind, corpus.fingerprint, make)["input_ids"]
