"""Loading the tokenizer that stands beside a model, and whether the two fit each other."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from secateur.errors import DataError, ModelError, SecateurError
from secateur.models.json_file import one_line, read_object, shown
from secateur.models.quiet import natively_silent, quiet

logger = logging.getLogger(__name__)

VOCABULARY, WORDS = "tokenizer.json", "vocab.json"
ADDED = "added_tokens.json"
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", ADDED)
MOST_ADDED = 2**20
SAMPLE = "Two words, 3 numbers."


def load_tokenizer(
    directory: Path, config: PreTrainedConfig | None = None, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model, as its files describe it.

    Args:
        directory: of the model.
        config: the model's, which says what tokenizer a family has where the files do not.
        trust_remote_code: run code that stands beside the files.

    Raises:
        ModelError: there is none, or one of its files is damaged.
    """
    settings = {name: read_object(directory / name) for name in SETTINGS_FILES if (directory / name).is_file()}
    for token, number in settings.get(ADDED, {}).items():
        if type(number) is not int or number < 0:
            raise ModelError(
                f"{directory / ADDED} is wrong: {shown(token)} is {shown(number)}, not the number of a token"
            )
    with quiet(), _reading_tokenizer(directory):
        if _is_whole(directory, settings.get(SETTINGS_FILES[0], {})):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
        else:
            tokenizer = AutoTokenizer.from_pretrained(directory, config=config, trust_remote_code=trust_remote_code)
        _try(tokenizer)
    return tokenizer


def _is_whole(directory: Path, settings: Mapping[str, Any]) -> bool:
    """Whether `tokenizer.json` is all there is to a tokenizer, by the class that is named beside it.

    AutoTokenizer takes Qwen2's own class all the same for a Qwen2, which splits text otherwise and adds tokens.
    """
    generic = settings.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return generic and "auto_map" not in settings and (directory / VOCABULARY).is_file()


def require_fit(tokenizer: PreTrainedTokenizerBase, rows: int, source: object) -> list[int]:
    """Tokens that the embeddings have no row for. Fewer tokens than rows are usual.

    Args:
        tokenizer: of a model.
        rows: of the model's embeddings.
        source: what messages call the model.

    Returns:
        The ids beyond the embeddings, of tokens that were added to a vocabulary and that no text need hold.

    Raises:
        ModelError: part of the vocabulary itself is beyond them, so that any text can hold it.
    """
    # Not the number of tokens: a few with large ids would have the tokenizers package count up to them.
    beyond = sorted(token for token in tokenizer.get_vocab().values() if token >= rows)
    added = set(tokenizer.added_tokens_decoder)
    ordinary = [token for token in beyond if token not in added]
    if ordinary or (beyond and beyond[-1] > rows + MOST_ADDED):
        raise ModelError(
            f"{source}: the tokenizer has tokens up to {beyond[-1]} and the model's embeddings {rows} rows "
            "(vocab_size); it is the tokenizer of another model"
        )
    return beyond


def guard_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: object) -> None:
    """Have a model refuse tokens that its embeddings have no row for, where its tokenizer has such.

    Raises:
        ModelError: as `require_fit`.
    """
    embeddings: nn.Module = model.get_input_embeddings()
    rows = int(embeddings.weight.shape[0])  # type: ignore[index]
    beyond = require_fit(tokenizer, rows, source)
    if not beyond:
        return
    logger.warning(
        "%s: the tokenizer has %d tokens (%s, …) beyond the %d rows of the model's embeddings; a text that holds one "
        "cannot be used",
        source,
        len(beyond),
        tokenizer.convert_ids_to_tokens(beyond[0]),
        rows,
    )
    embeddings.register_forward_pre_hook(_RowCheck(rows))


def require_known(model: PreTrainedModel, tokens: Tensor) -> None:
    """Raise `DataError` where tokens that were given as such have no row in a model's embeddings."""
    embeddings: nn.Module = model.get_input_embeddings()
    rows, largest = int(embeddings.weight.shape[0]), int(tokens.max())  # type: ignore[index]
    if largest >= rows:
        raise DataError(
            f"the data holds token {largest:,}, and the model has embeddings for {rows:,}; give its own tokens"
        )


class _RowCheck:
    """Before a lookup: raise `DataError` where a token has no row."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tokens = inputs[0] if inputs else None
        if isinstance(tokens, Tensor) and tokens.numel() and not tokens.is_meta:
            largest = int(torch.max(tokens))
            if largest >= self.rows:
                raise DataError(
                    f"a text holds token {largest}, and the model has embeddings for {self.rows} (vocab_size); the "
                    "tokenizer was given more tokens than the model: take it out of the text, or resize the embeddings"
                )


@contextmanager
def _reading_tokenizer(directory: Path) -> Iterator[None]:
    """Turn whatever reading tokenizer files raises into a `ModelError` of one line."""
    try:
        with natively_silent():
            yield
    except SecateurError:
        raise
    except BaseException as error:
        # What goes wrong inside of the tokenizers package can come as a panic, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        _name_culprit(directory)
        raise ModelError(
            f"{directory} has no tokenizer that can be loaded: {one_line(error)}; restore its tokenizer files from "
            "their source"
        ) from error


def _name_culprit(directory: Path) -> None:
    """Raise `ModelError` where one of the tokenizer's files is damaged by itself."""
    if (directory / WORDS).is_file():
        read_object(directory / WORDS)
    file = directory / VOCABULARY
    if not file.is_file():
        return
    try:
        with natively_silent():
            Tokenizer.from_file(str(file))
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{file} is damaged: {one_line(error)}; restore it from its source") from error


def _try(tokenizer: PreTrainedTokenizerBase) -> None:
    """Use a tokenizer once: some damage shows only then."""
    tokens = tokenizer(SAMPLE)["input_ids"]
    tokenizer.decode(tokens)
    if not all(type(token) is int and token >= 0 for token in tokens):
        raise ValueError("it gives ids that are no whole numbers")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if not isinstance(getattr(tokenizer, name), int | None):
            raise ValueError(f"its {name} is no whole number")
    if not isinstance(tokenizer.get_vocab(), dict) or len(tokenizer) == 0:
        raise ValueError("its vocabulary is empty")
