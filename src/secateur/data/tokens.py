"""Tokenising, once: the tokens are kept in the cache directory by tokenizer and content."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import tokenizers
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.errors import InputError, OutputError
from secateur.files.cache import distrust, private_directory, write_private

logger = logging.getLogger(__name__)

_LAYOUT = "2"
_CHECKSUM = "checksum"
_IDS = "input_ids"

# Whether tensors from the cache have the shapes and the numbers of what would be made.
Check = Callable[[Mapping[str, Tensor]], bool]


class _Unbelievable(Exception):
    """What makes an entry of the cache unusable."""


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool = True) -> list[list[int]]:
    """Token ids of each text, never cut, with or without the special tokens the tokenizer adds by default."""
    if not texts:
        return []
    encoded = tokenizer(
        texts,
        add_special_tokens=special,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        verbose=False,
    )
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
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    content: str,
    make: Callable[[], dict[str, Tensor]],
    fits: Check | None = None,
) -> dict[str, Tensor]:
    """What `make` returns, taken from the cache where it was made before.

    An entry is believed where its checksum is right for this very text and tokenizer, no other user could have written
    it, its `input_ids` are int32 and tokens of the tokenizer, and it fits. Another is made anew, and the log says so.

    Args:
        tokenizer: the tokenizer `make` uses.
        kind: tells apart what is made of the same content.
        content: fingerprint of the content `make` tokenises.
        make: does the tokenising; among the tensors are `input_ids`, int32.
        fits: further checks of what the cache gives; by default `input_ids` alone, (tokens,).

    Returns:
        The tensors by name. Not being able to write the cache is logged and costs only time.
    """
    fingerprint = tokenizer_fingerprint(tokenizer)
    if fingerprint is None:
        return make()
    key = hashlib.sha256("\n".join((_LAYOUT, kind, fingerprint, content)).encode("utf-8")).hexdigest()
    try:
        path = private_directory("tokens") / f"{key}.safetensors"
    except OutputError as error:
        logger.warning("the tokens are not kept for the next time: %s", error)
        return make()
    try:
        return _read(path, key, tokenizer, fits or _is_a_text)
    except FileNotFoundError:
        logger.debug("nothing is cached in %s", path)
    except (SafetensorError, OSError, _Unbelievable) as error:
        logger.warning("the cached tokens in %s are not used (%s) and are made anew", path, error)
    made = make()
    try:
        write_private(path, save(made, {_CHECKSUM: _checksum(key, made)}))
    except OutputError as error:
        logger.warning("the tokens are not kept for the next time: %s", error)
    return made


def _read(path: Path, key: str, tokenizer: PreTrainedTokenizerBase, fits: Check) -> dict[str, Tensor]:
    """An entry of the cache. Raises `_Unbelievable`, `SafetensorError` or `OSError`."""
    foreign = distrust(path)
    if foreign is not None:
        raise _Unbelievable(foreign)
    with safe_open(path, "pt") as file:
        told = (file.metadata() or {}).get(_CHECKSUM)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if told != _checksum(key, tensors):
        raise _Unbelievable("their checksum is wrong")
    ids = tensors.get(_IDS)
    if ids is None or ids.dtype != torch.int32 or not _are_tokens(ids, tokenizer) or not fits(tensors):
        raise _Unbelievable("they are no tokens of this text and tokenizer")
    return tensors


def _checksum(key: str, tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b of tensors and of the key they are kept by, so that one entry does not pass for another."""
    digest = hashlib.blake2b(key.encode(), digest_size=32)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _are_tokens(ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> bool:
    if ids.numel() == 0:
        return True
    least, most = int(ids.min()), int(ids.max())
    # Some vocabularies have gaps, and then ids beyond their length.
    return least >= 0 and (most < len(tokenizer) or most <= max(tokenizer.get_vocab().values()))


def _is_a_text(tensors: Mapping[str, Tensor]) -> bool:
    return tensors.keys() == {_IDS} and tensors[_IDS].dim() == 1


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
    if limit is not None:
        require_some(limit, what)
    if limit is None or limit >= count:
        if limit is not None and limit > count:
            logger.warning("%s %s are asked for, and there are %s: all are used", f"{limit:,}", what, f"{count:,}")
        return torch.arange(count)
    if seed is None:
        return torch.arange(limit)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:limit].sort().values


def require_some(limit: int, what: str) -> None:
    """Raise `InputError` where a limit is below 1."""
    if limit < 1:
        raise InputError(f"{limit} {what} are asked for; ask for at least 1")
