"""Named corpora and files in, token windows and training sequences out."""

from secateur.data.corpora import check_texts, corpus_names, load_corpus
from secateur.data.corpus import IGNORED, Corpus, Example, alpaca_prompt
from secateur.data.instruction import pack_examples, tokenize_examples
from secateur.data.windows import token_windows

__all__ = [
    "IGNORED",
    "Corpus",
    "Example",
    "alpaca_prompt",
    "check_texts",
    "corpus_names",
    "load_corpus",
    "pack_examples",
    "token_windows",
    "tokenize_examples",
]
