"""SentencePiece's BPE as llama.cpp has it: no list of merges, but a score for each piece.

llama.cpp merges any two neighbours whose text together is a piece, the pair with the highest score first. A
`tokenizer.json` lists the pairs instead. Both do the same where every way to put a piece together from two others is
listed, and the pieces come one after the other in that list; that is checked, since otherwise they would not. Runs of
spaces may be out of order: SentencePiece gives those of Llama and Mistral one score, and merges them from the left.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import gguf

from secateur.errors import ModelError

logger = logging.getLogger(__name__)

SPACE = "▁"
TYPE = gguf.TokenType


def space_before_text(content: Mapping[str, Any]) -> bool | None:
    """How a `tokenizer.json` that writes spaces as ▁ and unknown characters as bytes begins a text.

    Returns:
        True where it puts a ▁ before, as Llama 2 and Mistral do, False where it does not, as Gemma; None for
        tokenizers of another kind.

    Raises:
        ModelError: it puts its spaces otherwise than llama.cpp.
    """
    if not content["model"].get("byte_fallback"):
        return None
    normalizer, pre_tokenizer = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    kinds = [step["type"] for step in steps]
    as_normalizer = kinds == ["Prepend", "Replace"] and not pre_tokenizer
    as_metaspace = (
        not normalizer
        and pre_tokenizer.get("type") == "Metaspace"
        and pre_tokenizer["prepend_scheme"] in ("first", "always")
        and not pre_tokenizer.get("split", True)
    )
    if kinds == ["Replace"] and _splits_nothing(pre_tokenizer, steps[0]):
        return False
    if not as_normalizer and not as_metaspace:
        raise ModelError(
            "the tokenizer falls back to bytes but does not put one ▁ before a text, or none, and one for each space; "
            "llama.cpp has no such rule, and it cannot be exported"
        )
    if as_metaspace:
        logger.warning(
            "llama.cpp puts a ▁ before every text and after every special token, the tokenizer only where none is yet: "
            "text that begins with a space, or follows a special token, is split otherwise"
        )
    return True


def _splits_nothing(pre_tokenizer: Mapping[str, Any], replace: Mapping[str, Any]) -> bool:
    """Whether spaces are replaced, and the pre-tokenizer does nothing or splits at the spaces that are then no more."""
    spaces = {"String": " "}
    at_spaces = pre_tokenizer.get("type") == "Split" and pre_tokenizer.get("pattern") == spaces
    return replace["pattern"] == spaces and replace["content"] == SPACE and (not pre_tokenizer or at_spaces)


def piece_scores(content: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> list[float]:
    """A score for each token, so that llama.cpp merges in the order of the list of merges.

    Args:
        content: of the `tokenizer.json`.
        tokens: by id.
        types: of each token.

    Raises:
        ModelError: no scores give that order.
    """
    merges = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in content["model"]["merges"]
    ]
    order: dict[str, int] = {}
    last, runs_tie = None, False
    for left, right in merges:
        piece = left + right
        if piece in order and piece != last:
            if piece.strip(SPACE):
                raise _no_scores(f"'{piece}' comes up twice in the list of merges, with others between")
            runs_tie = True
        order.setdefault(piece, len(order))
        last = piece
    if runs_tie:
        runs = [piece for piece in order if not piece.strip(SPACE)]
        order.update(dict.fromkeys(runs, max(order[run] for run in runs)))
    # Gemma's runs of spaces are added tokens too: found as they stand in a text, and merged from its spaces.
    merged = [kind == TYPE.NORMAL or token in order for token, kind in zip(tokens, types, strict=True)]
    pieces = {token for token, is_piece in zip(tokens, merged, strict=True) if is_piece}
    _require_all_pairs(pieces, set(merges))
    lowest = -float(len(order) + 1)
    return [
        0.0 if not is_piece else -float(order[token]) if token in order else lowest
        for token, is_piece in zip(tokens, merged, strict=True)
    ]


def _require_all_pairs(pieces: set[str], listed: set[tuple[str, ...]]) -> None:
    """Raise `ModelError` where two pieces together are a third and the list of merges does not say so."""
    for piece in pieces:
        for cut in range(1, len(piece)):
            parts = piece[:cut], piece[cut:]
            if parts[0] in pieces and parts[1] in pieces and parts not in listed:
                raise _no_scores(f"'{parts[0]}' and '{parts[1]}' do not merge although '{piece}' is a token")


def _no_scores(reason: str) -> ModelError:
    return ModelError(f"the tokenizer merges in an order that llama.cpp cannot have: {reason}; it cannot be exported")
