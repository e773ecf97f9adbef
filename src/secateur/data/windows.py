"""A text as windows of tokens, all of one length."""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.data.corpus import Corpus
from secateur.data.tokens import cached_tokens, choose, tokenize
from secateur.errors import DataError, InputError


def token_windows(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    seqlen: int,
    *,
    limit: int | None = None,
    stride: int | None = None,
    seed: int | None = None,
) -> Tensor:
    """Join a corpus, tokenise it as one text, and cut it into windows.

    What does not fill a window at the end is left out. The tokens are kept in the cache directory and reused.

    Args:
        tokenizer: adds the special tokens it adds by default, at the text's ends only.
        corpus: plain text, or instruction data, which is then read as plain text.
        seqlen: tokens in a window.
        limit: how many windows to return at most; all by default.
        stride: tokens from the start of one window to the start of the next, at most `seqlen` (the default).
        seed: with a limit, choose at random, in the text's order; without a seed the first ones are taken.

    Returns:
        Token ids, (windows, seqlen) int64.

    Raises:
        DataError: the text is shorter than one window.
        InputError: `seqlen` or `limit` is below 1, or `stride` is not between 1 and `seqlen`.
    """
    step = seqlen if stride is None else stride
    if seqlen < 1:
        raise InputError(f"seqlen is {seqlen}; it must be at least 1")
    if not 1 <= step <= seqlen:
        raise InputError(f"stride is {step}; it must be between 1 and seqlen, {seqlen}")
    tokens = corpus_tokens(tokenizer, corpus)
    if len(tokens) < seqlen:
        raise DataError(
            f"{corpus.name} has {len(tokens):,} tokens and one window needs {seqlen:,}; "
            "give a longer text or a smaller --seqlen"
        )
    windows = tokens.unfold(0, seqlen, step)  # (windows, seqlen), a view
    return windows[choose(len(windows), limit, seed, f"windows of {corpus.name}")].long()


def corpus_tokens(tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> Tensor:
    """The token ids of the whole corpus as one text, (tokens,) int32."""

    def make() -> dict[str, Tensor]:
        return {"input_ids": torch.tensor(tokenize(tokenizer, [corpus.text])[0], dtype=torch.int32)}

    return cached_tokens(tokenizer, f"text {corpus.separator!r}", corpus.fingerprint, make)["input_ids"]
