"""Tokenising, once: the tokens are kept in the cache directory by tokenizer and content."""

import hashlib
import logging
from collections.abc import Callable

import tokenizers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.errors import InputError, OutputError
from secateur.files import cache_directory, write_bytes

logger = logging.getLogger(__name__)

_LAYOUT = "1"


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, with the special tokens the tokenizer adds by default, never cut."""
    if not texts:
        return []
    encoded = tokenizer(texts, truncation=False, padding=False, return_attention_mask=False, verbose=False)
    return encoded["input_ids"]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 of all that decides how text becomes tokens; `None` where the tokenizer does not tell."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    # What an earlier call padded or cut to would be part of the description. `tokenize` resets both as well.
    backend.no_truncation()
    backend.no_padding()
    splits_special = getattr(tokenizer, "split_special_tokens", False)
    described = f"{tokenizers.__version__} {splits_special} {backend.to_str()}"
    return hashlib.sha256(described.encode("utf-8")).hexdigest()


def cached_tokens(
    tokenizer: PreTrainedTokenizerBase, kind: str, content: str, make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What `make` returns, taken from the cache where it was made before.

    Args:
        tokenizer: the tokenizer `make` uses.
        kind: tells apart what is made of the same content.
        content: fingerprint of the content `make` tokenises.
        make: does the tokenising.

    Returns:
        The tensors by name. Not being able to write the cache is logged and costs only time.
    """
    fingerprint = tokenizer_fingerprint(tokenizer)
    if fingerprint is None:
        return make()
    key = hashlib.sha256("\n".join((_LAYOUT, kind, fingerprint, content)).encode("utf-8")).hexdigest()
    path = cache_directory() / "tokens" / f"{key}.safetensors"
    try:
        return load_file(path)
    except FileNotFoundError:
        logger.debug("nothing is cached in %s", path)
    except (SafetensorError, OSError) as error:
        logger.warning("the cached tokens in %s cannot be read (%s) and are made anew", path, error)
    made = make()
    try:
        write_bytes(path, save(made))
    except OutputError as error:
        logger.warning("the tokens are not kept for the next time: %s", error)
    return made


def choose(count: int, limit: int | None, seed: int | None, what: str) -> Tensor:
    """Which of `count` things to take.

    Args:
        count: how many there are.
        limit: how many are wanted; all of them if `None`.
        seed: choose at random with this seed; if `None`, the first ones are taken.
        what: what they are called in the log, should there be fewer than wanted.

    Returns:
        Their places in rising order, (at most limit,) int64.

    Raises:
        InputError: the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"{limit} {what} are asked for; ask for at least 1")
    if limit is None or limit >= count:
        if limit is not None and limit > count:
            logger.warning("%s %s are asked for, and there are %s: all are used", f"{limit:,}", what, f"{count:,}")
        return torch.arange(count)
    if seed is None:
        return torch.arange(limit)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:limit].sort().values
