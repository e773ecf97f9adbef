"""Instruction data as training sequences, with the loss on the answer only."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.data.corpus import IGNORED, Example, alpaca_prompt, content_fingerprint
from secateur.data.tokens import cached_tokens, choose, tokenize
from secateur.errors import DataError, InputError

logger = logging.getLogger(__name__)


def tokenize_examples(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    seqlen: int,
    limit: int | None = None,
    seed: int | None = None,
) -> list[dict[str, list[int]]]:
    """Make training sequences: prompt, answer, end of text.

    A sequence is cut at `seqlen` tokens. An example of which that leaves no token of the answer is dropped,
    and the log says how many were. Sequences are not padded.

    Args:
        tokenizer: its end-of-text token ends each sequence, where it has one.
        examples: the instruction data, `Corpus.examples`.
        seqlen: most tokens in a sequence.
        limit: how many sequences to return at most; all by default.
        seed: with a limit, choose at random, in the examples' order; without a seed the first ones are taken.

    Returns:
        One dictionary per kept example: `input_ids`, and `labels` of the same length, -100 for the prompt.

    Raises:
        DataError: no example has a token of its answer within the first `seqlen`.
        InputError: `seqlen` or `limit` is below 1.
    """
    if seqlen < 1:
        raise InputError(f"seqlen is {seqlen}; it must be at least 1")
    tokens = cached_tokens(
        tokenizer,
        f"examples {tokenizer.eos_token_id}",
        content_fingerprint([], examples),
        lambda: _tokenize_all(tokenizer, examples),
        lambda tensors: _are_examples(tensors, len(examples)),
    )
    cut_lengths = tokens["lengths"].clamp(max=seqlen)
    kept = (tokens["prompt_lengths"] < cut_lengths).nonzero().flatten()
    if len(kept) == 0:
        raise DataError(
            f"none of {len(examples):,} examples has any of its answer within the first {seqlen:,} tokens; "
            "raise --seqlen"
        )
    if len(kept) < len(examples):
        logger.warning(
            "%s of %s examples are left out: nothing of their answer is within the first %s tokens",
            f"{len(examples) - len(kept):,}",
            f"{len(examples):,}",
            f"{seqlen:,}",
        )
    chosen = kept[choose(len(kept), limit, seed, "examples")]
    starts = tokens["lengths"].cumsum(0) - tokens["lengths"]
    places = zip(*(t[chosen].tolist() for t in (starts, cut_lengths, tokens["prompt_lengths"])), strict=True)
    return [
        _sequence(tokens["input_ids"][start : start + length], prompt_length) for start, length, prompt_length in places
    ]


def _sequence(input_ids: Tensor, prompt_length: int) -> dict[str, list[int]]:
    ids = input_ids.tolist()
    return {"input_ids": ids, "labels": [IGNORED] * prompt_length + ids[prompt_length:]}


def _tokenize_all(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> dict[str, Tensor]:
    """All examples uncut: `input_ids` end to end, and per example `lengths` and `prompt_lengths`."""
    prompts = [alpaca_prompt(example) for example in examples]
    texts = [prompt + example.output for prompt, example in zip(prompts, examples, strict=True)]
    sequences = [_ended(tokenizer, ids) for ids in tokenize(tokenizer, texts)]
    prompt_ids = tokenize(tokenizer, prompts)
    # Tokenised as one text, an answer gets no leading space of its own, as some tokenizers would give it. The
    # prompt ends where its own tokens end to agree: a token that reaches over the border counts as answer.
    prompt_lengths = [_shared(ids, prompt) for ids, prompt in zip(sequences, prompt_ids, strict=True)]
    return {
        "input_ids": torch.tensor([token for ids in sequences for token in ids], dtype=torch.int32),
        "lengths": torch.tensor([len(ids) for ids in sequences]),
        "prompt_lengths": torch.tensor(prompt_lengths),
    }


def _are_examples(tensors: Mapping[str, Tensor], count: int) -> bool:
    if tensors.keys() != {"input_ids", "lengths", "prompt_lengths"}:
        return False
    ids, lengths, prompts = (tensors[name] for name in ("input_ids", "lengths", "prompt_lengths"))
    if any(sizes.dtype != torch.int64 or sizes.shape != (count,) for sizes in (lengths, prompts)):
        return False
    return bool((prompts >= 0).all() and (prompts <= lengths).all()) and ids.shape == (int(lengths.sum()),)


def _ended(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    end: Any = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _shared(ids: list[int], prompt: list[int]) -> int:
    pairs = enumerate(zip(ids, prompt, strict=False))
    return next((place for place, (token, other) in pairs if token != other), min(len(ids), len(prompt)))
