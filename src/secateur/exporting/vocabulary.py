"""A tokenizer as llama.cpp reads it: byte-level BPE by merges, SentencePiece's BPE by scores."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gguf
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.errors import InputError, ModelError
from secateur.exporting.pre_tokenizers import pre_tokenizer_name
from secateur.exporting.sentencepiece import piece_scores, space_before_text

logger = logging.getLogger(__name__)

TYPE = gguf.TokenType
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"


@dataclass(frozen=True)
class Vocabulary:
    """What the file says of the tokenizer.

    Attributes:
        model: llama.cpp's kind of tokenizer, `gpt2` or `llama`.
        pre: its name for how text is split.
        tokens: by id.
        types: of each token.
        merges: two tokens with a space between, in the order in which they are tried (`gpt2`).
        scores: of each token; of two merges that one comes first whose result has the higher score (`llama`).
        special: ids by role: `bos`, `eos`, `pad`, `unk`.
        adds_bos, adds_eos: whether text gets them.
        chat_template: Jinja text, or several by name.
        space_before_text: whether a text begins with a ▁ of its own (`llama`).
    """

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    special: Mapping[str, int]
    adds_bos: bool
    adds_eos: bool
    merges: Sequence[str] | None = None
    scores: Sequence[float] | None = None
    chat_template: str | Mapping[str, str] | None = None
    space_before_text: bool = True

    def resized(self, rows: int) -> "Vocabulary":
        """With as many tokens as the model has embeddings: cut, or filled up with tokens that are never used.

        Raises:
            ModelError: a merge or a special token needs a token beyond the embeddings.
        """
        count = len(self.tokens)
        if count > rows:
            kept = set(self.tokens[:rows])
            merged = {merge.replace(" ", "", 1) for merge in self.merges or ()}
            lost = [token for token in self.tokens[rows:] if token not in kept]
            beyond = {role: index for role, index in self.special.items() if index >= rows and role != "pad"}
            if beyond or merged & set(lost):
                raise ModelError(
                    f"the tokenizer has {count:,} tokens and the model {rows:,} embeddings, and those beyond are not "
                    "only added ones; one of the two is of another model"
                )
            logger.warning("The last %d tokens of the tokenizer have no embedding and are left out", count - rows)
        unused = [f"[PAD{index}]" for index in range(count, rows)]
        return replace(
            self,
            tokens=[*self.tokens[:rows], *unused],
            types=[*self.types[:rows], *(TYPE.UNUSED for _ in unused)],
            scores=None if self.scores is None else [*self.scores[:rows], *(-1e6 for _ in unused)],
            special={role: index for role, index in self.special.items() if index < rows},
        )

    def write(self, writer: gguf.GGUFWriter, end_of_turn: int | None = None) -> None:
        """Add the fields to a file's header.

        Args:
            end_of_turn: a token that ends an answer beside the end token.
        """
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        for role, index in self.special.items():
            writer.add_uint32(f"tokenizer.ggml.{ROLE_KEYS[role]}_token_id", index)
        if end_of_turn is not None and end_of_turn < len(self.tokens):
            writer.add_eot_token_id(end_of_turn)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        if self.model == SENTENCEPIECE:
            writer.add_add_space_prefix(self.space_before_text)
        if isinstance(self.chat_template, str):
            writer.add_chat_template(self.chat_template)
        elif self.chat_template:
            writer.add_chat_template([{"name": name, "template": text} for name, text in self.chat_template.items()])


ROLE_KEYS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def read_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Read a Transformers tokenizer.

    Raises:
        ModelError: llama.cpp has no tokenizer that does the same.
        InputError: there is none.
    """
    if tokenizer is None:
        raise InputError("tokenizer= is None; give the model's, which is written into the file")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"{type(tokenizer).__name__} runs without the library tokenizers; only tokenizers with a tokenizer.json "
            "can be exported"
        )
    content = json.loads(backend.to_str())
    kind = content["model"]["type"]
    if kind != "BPE":
        raise ModelError(f"the tokenizer is of the type {kind}; only BPE can be exported")
    tokens, types = _tokens(content)
    special = _special_ids(tokenizer)
    adds_bos, adds_eos = _added_around(tokenizer, special)
    template = getattr(tokenizer, "chat_template", None)
    common: dict[str, Any] = {
        "special": special,
        "adds_bos": adds_bos,
        "adds_eos": adds_eos,
        "chat_template": template,
        "tokens": tokens,
        "types": types,
    }
    before_text = space_before_text(content)
    if before_text is not None:
        scores = piece_scores(content, tokens, types)
        return Vocabulary(SENTENCEPIECE, "default", scores=scores, space_before_text=before_text, **common)
    _require_plain_bytes(content)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    return Vocabulary(BYTE_LEVEL, pre_tokenizer_name(content), merges=merges, **common)


def end_of_turn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token by which the chat template ends a message, where it is not the tokenizer's end token.

    llama.cpp knows some by their names; this one is in the settings by which the model generates.
    """
    settings, template = model.generation_config, getattr(tokenizer, "chat_template", None)
    ends = getattr(settings, "eos_token_id", None)
    if not isinstance(ends, list) or not isinstance(template, str):
        return None
    others = [end for end in ends if end != tokenizer.eos_token_id]
    return next((end for end in others if str(tokenizer.convert_ids_to_tokens(end)) in template), None)


def _tokens(content: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Every token by id, and its type; ids that no token has are filled up."""
    vocabulary: dict[str, int] = content["model"]["vocab"]
    added = content["added_tokens"]
    count = 1 + max([*vocabulary.values(), *(token["id"] for token in added)])
    tokens = [f"[PAD{index}]" for index in range(count)]
    types: list[int] = [TYPE.UNUSED] * count
    byte_fallback = content["model"].get("byte_fallback")
    for token, index in vocabulary.items():
        is_byte = byte_fallback and len(token) == 6 and token.startswith("<0x")
        tokens[index], types[index] = token, TYPE.BYTE if is_byte else TYPE.NORMAL
    unknown = content["model"].get("unk_token")
    for token in added:
        index = token["id"]
        tokens[index], types[index] = token["content"], TYPE.CONTROL if token["special"] else TYPE.USER_DEFINED
        if byte_fallback and token["content"] == unknown:
            types[index] = TYPE.UNKNOWN
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            logger.warning("llama.cpp keeps the spaces beside %s, which the tokenizer takes in", token["content"])
    return tokens, types


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of the tokens with a role. llama.cpp takes others for begin and end where a file names none."""
    found = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ROLE_KEYS}
    if found["eos"] is None:
        raise ModelError("the tokenizer names no end token (eos_token), and llama.cpp needs one; set it and save again")
    if found["bos"] is None:
        found["bos"] = found["eos"]
    return {role: int(index) for role, index in found.items() if index is not None}


def _added_around(tokenizer: PreTrainedTokenizerBase, special: Mapping[str, int]) -> tuple[bool, bool]:
    """Whether text gets a begin and an end token. Raises `ModelError` where it gets something else."""
    bare, whole = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
    bos, eos = [special["bos"]], [special["eos"]]
    for before, after in (([], []), (bos, []), ([], eos), (bos, eos)):
        if whole == [*before, *bare, *after]:
            return bool(before), bool(after)
    raise ModelError(
        f"the tokenizer puts {tokenizer.convert_ids_to_tokens(whole)} for 'a'; llama.cpp can add a begin and an end "
        "token only"
    )


def _require_plain_bytes(content: Mapping[str, Any]) -> None:
    """Raise `ModelError` where a byte-level tokenizer changes text before it splits it."""
    normalizer = content.get("normalizer") or {"type": None}
    if normalizer["type"] not in (None, "NFC"):
        raise ModelError(
            f"the tokenizer rewrites text first ({normalizer['type']}), which llama.cpp does not; it cannot be exported"
        )
    model = content["model"]
    if not model["merges"]:
        raise ModelError("the tokenizer has no merges, and llama.cpp needs some; it cannot be exported")
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    if affixes or model.get("dropout") or model.get("byte_fallback"):
        raise ModelError("the tokenizer's BPE marks parts of words, which llama.cpp does not; it cannot be exported")
