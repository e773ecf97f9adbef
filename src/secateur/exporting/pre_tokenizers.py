"""llama.cpp's names for the ways byte-level tokenizers split text before they merge.

llama.cpp has the rules in its code, by name. A wrong name goes unnoticed: text is split otherwise, and the model reads
tokens it was not trained on. So the name is looked up by the tokenizer's own rules; rules without a name are refused.
"""

from collections.abc import Mapping
from typing import Any

from secateur.errors import ModelError
from secateur.models.gguf_input.tokenizer import QWEN35

WORDS, DIGITS = "words of GPT-2", "single digits"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _CONTRACTIONS + r"\p{N}{1,3}" + _REST
QWEN2 = _CONTRACTIONS + r"\p{N}" + _REST
_UPPER_LOWER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER = r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_AFTER = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_REST_WITH_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = _UPPER_LOWER + _AFTER + _UPPER + _AFTER + r"|\p{N}{1,3}" + _REST_WITH_SLASH
TEKKEN = _UPPER_LOWER + _UPPER + r"|\p{N}" + _REST_WITH_SLASH
# By the rules, and whether a word that is a token is taken whole (`ignore_merges`).
NAMES = {
    ((WORDS,), False): "gpt-2",
    ((DIGITS, WORDS), False): "smollm",
    ((LLAMA3,), True): "llama-bpe",
    ((LLAMA3,), False): "smaug-bpe",
    ((QWEN2,), False): "qwen2",
    ((QWEN35,), False): "qwen35",
    ((GPT4O,), False): "gpt-4o",
    ((TEKKEN,), True): "tekken",
}


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for the rules of a byte-level tokenizer.

    Args:
        tokenizer: the content of a `tokenizer.json`.

    Raises:
        ModelError: llama.cpp has no such rules.
    """
    pre_tokenizer = tokenizer.get("pre_tokenizer") or {}
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    rules = tuple(rule for step in steps for rule in _rules(step))
    name = NAMES.get((rules, bool(tokenizer["model"].get("ignore_merges"))))
    if name is None:
        raise ModelError(
            f"the tokenizer splits text by {', then '.join(rules) or 'no rule'}"
            f"{', and takes known words whole' if tokenizer['model'].get('ignore_merges') else ''}; llama.cpp's names "
            f"for such rules that secateur knows are {', '.join(NAMES.values())}, and none fits: it would split text "
            "otherwise than the model was trained on"
        )
    return name


def _rules(step: Mapping[str, Any]) -> tuple[str, ...]:
    """A step of splitting; anything that is not known stands as its own name, and so has no name in llama.cpp."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return (WORDS,) if step.get("use_regex", True) else ()
    if kind == "Digits" and step.get("individual_digits"):
        return (DIGITS,)
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        pattern = step["pattern"].get("Regex", "")
        return (WORDS if pattern == GPT2 else pattern or str(step["pattern"]),)
    return (str({key: value for key, value in step.items() if value is not None}),)
