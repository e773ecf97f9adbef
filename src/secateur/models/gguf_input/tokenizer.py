"""The tokenizer in a GGUF file: Transformers builds it, and what it leaves out is put back."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from secateur.errors import ModelError
from secateur.models.gguf_input.header import GGUFHeader
from secateur.models.json_file import one_line, shown
from secateur.models.quiet import quiet

logger = logging.getLogger(__name__)

BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
# llama.cpp's names for how byte-level tokenizers split text. The first are what Transformers takes for every name that
# it does not know, so for the second as well; the others it knows, but does not take a word whole that is a token, as
# llama.cpp and the models' own tokenizers do with WHOLE_WORDS.
WORDS = ("gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion")
DIGITS_THEN_WORDS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "minerva-7b")
WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "tekken")
OTHERS = ("smaug-bpe", "dbrx", "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "gpt-4o", "kanana2")
# Those that Transformers does not know.
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"qwen35": QWEN35}
TEMPLATE = "tokenizer.chat_template"


def read_tokenizer(header: GGUFHeader) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file.

    Raises:
        ModelError: there is none, it is damaged, or it splits text in a way that is not carried.
    """
    _require_whole(header)
    keys = header.keys
    splits = _splitting(header)
    settings: dict[str, Any] = {}
    if splits in WHOLE_WORDS and "tokenizer.ggml.add_bos_token" not in keys:
        settings["add_bos_token"] = True  # llama.cpp's default for these
    try:
        # By itself, so that no tokenizer_config.json that lies beside the file is taken for its own.
        with tempfile.TemporaryDirectory() as directory, quiet():
            (Path(directory) / "model.gguf").symlink_to(header.file.resolve())
            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(directory, gguf_file="model.gguf", **settings)
    except BaseException as error:
        # The library tokenizers raises no narrower class, and what goes wrong inside of it can come as a panic.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _damaged(header.file, one_line(error)) from error
    if len(tokenizer) > len(keys["tokenizer.ggml.tokens"]):
        tokenizer._tokenizer = _with_tokens_up_to(len(keys["tokenizer.ggml.tokens"]), tokenizer.backend_tokenizer)
    tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = str(header.file)
    backend = tokenizer.backend_tokenizer
    if splits in DIGITS_THEN_WORDS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if splits in PATTERNS:
        split = pre_tokenizers.Split(Regex(PATTERNS[splits]), "isolated")
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, words])
    if splits in WHOLE_WORDS:
        backend.model.ignore_merges = True
    if keys["tokenizer.ggml.model"] == SENTENCEPIECE and keys.get("tokenizer.ggml.add_space_prefix") is False:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    _add_templates(tokenizer, keys)
    return tokenizer


def _with_tokens_up_to(count: int, backend: Tokenizer) -> Tokenizer:
    """The tokenizer without what Transformers' class for it has added to the file's tokens, as `<|endoftext|>`."""
    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < count]
    return Tokenizer.from_str(json.dumps(content))


def _splitting(header: GGUFHeader) -> str | None:
    """llama.cpp's name for how a byte-level tokenizer splits text. Raises `ModelError` for one that is not known."""
    if header.keys["tokenizer.ggml.model"] != BYTE_LEVEL:
        return None
    name = header.keys.get("tokenizer.ggml.pre")
    if name in (None, "default"):
        logger.warning("%s does not say how its tokenizer splits text (tokenizer.ggml.pre): as GPT-2's", header.file)
        return None
    known = (*WORDS, *DIGITS_THEN_WORDS, *WHOLE_WORDS, *OTHERS, *PATTERNS)
    if name not in known:
        raise ModelError(
            f"{header.file} sets tokenizer.ggml.pre to {shown(name)}, a way to split text that secateur does not "
            f"carry; known are {', '.join(known)}; take the original model's directory"
        )
    return str(name)


def _require_whole(header: GGUFHeader) -> None:
    """Raise `ModelError` where the lists of the tokenizer do not fit together."""
    keys, file = header.keys, header.file
    kind = keys.get("tokenizer.ggml.model")
    if kind not in (BYTE_LEVEL, SENTENCEPIECE):
        raise ModelError(
            f"{file} has a tokenizer of the kind {shown(kind)} (tokenizer.ggml.model); secateur reads "
            f"{BYTE_LEVEL} and {SENTENCEPIECE}"
        )
    tokens = keys.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise _damaged(file, "it has no list of tokens")
    rows = header.tensors["token_embd.weight"].shape[0]
    if len(tokens) != rows:
        raise _damaged(file, f"it has {len(tokens):,} tokens and the model {rows:,} embeddings")
    known = set(tokens)
    if len(known) < len(tokens):
        raise _damaged(file, f"of its {len(tokens):,} tokens {len(tokens) - len(known):,} stand there twice")
    for name, types in (("scores", (int, float)), ("token_type", (int,))):
        values = keys.get(f"tokenizer.ggml.{name}")
        if values is not None and (
            not isinstance(values, list) or len(values) != rows or not all(isinstance(each, types) for each in values)
        ):
            raise _damaged(file, f"tokenizer.ggml.{name} is no list of one number for each token")
    merges = keys.get("tokenizer.ggml.merges")
    if kind == SENTENCEPIECE and keys.get("tokenizer.ggml.scores") is None and merges is None:
        raise _damaged(file, "it has neither tokenizer.ggml.scores nor merges")
    if kind == BYTE_LEVEL and merges is None:
        raise _damaged(file, "it has no tokenizer.ggml.merges")
    for merge in merges or ():
        left, _, right = merge.partition(" ") if isinstance(merge, str) else ("", "", "")
        if not right or not {left, right, left + right} <= known:
            raise _damaged(file, f"the merge {shown(merge)} is not of its tokens")
    for role in ("bos", "eos", "unknown", "padding"):
        index = keys.get(f"tokenizer.ggml.{role}_token_id")
        if index is not None and (not isinstance(index, int) or not 0 <= index < rows):
            raise _damaged(file, f"tokenizer.ggml.{role}_token_id is {shown(index)}, outside its {rows:,} tokens")
    template = keys.get(TEMPLATE)
    if template is not None and not isinstance(template, str):
        raise _damaged(file, f"{TEMPLATE} is no text")


def _damaged(file: Path, reason: str) -> ModelError:
    return ModelError(f"the tokenizer of {file} could not be loaded: {reason}")


def _add_templates(tokenizer: Any, keys: dict[str, Any]) -> None:
    """Chat templates beside the first, which have names: `tokenizer.chat_template.tool_use`."""
    named = {key.removeprefix(f"{TEMPLATE}."): text for key, text in keys.items() if key.startswith(f"{TEMPLATE}.")}
    if named:
        first = {} if tokenizer.chat_template is None else {"default": tokenizer.chat_template}
        tokenizer.chat_template = {**first, **named}
