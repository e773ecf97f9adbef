"""Named corpora, files and objects in, token windows and training sequences out."""

from secateur.data.corpora import check_texts, corpus_names, load_corpus
from secateur.data.corpus import IGNORED, Conversation, Corpus, Example, alpaca_prompt
from secateur.data.instruction import pack_examples, tokenize_examples
from secateur.data.memory import Data, DataName, InMemory
from secateur.data.options import DataOptions
from secateur.data.sources import inputs_of, texts_of
from secateur.data.windows import count_of_windows, token_windows

__all__ = [
    "IGNORED",
    "Conversation",
    "Corpus",
    "Data",
    "DataName",
    "DataOptions",
    "Example",
    "InMemory",
    "alpaca_prompt",
    "check_texts",
    "corpus_names",
    "count_of_windows",
    "inputs_of",
    "load_corpus",
    "pack_examples",
    "texts_of",
    "token_windows",
    "tokenize_examples",
]
