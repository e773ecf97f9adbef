"""Corpora by name, and files."""

import difflib
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, get_args

from secateur.data.corpus import Corpus, Example, content_fingerprint
from secateur.data.hub import HUB_CORPORA, load_from_hub
from secateur.data.lazy import LARGE, Item, RowFile, TextFile, file_identity, in_memory, open_file
from secateur.data.pieces import pieces_of
from secateur.data.reading import file_kinds, is_file_kind
from secateur.data.slices import Part, split_name
from secateur.errors import DataError
from secateur.files import expanded

Split = Literal["train", "test"]

_PYDOCS = "pydocs"
_PYDOCS_TRAIN_SHARE = 0.8
_LOOKED_AT = 1 << 12  # characters that are looked at together for a text


def corpus_names() -> list[str]:
    """The corpora that can be named, the embedded one first."""
    return [_PYDOCS, *HUB_CORPORA]


def load_corpus(name: str, split: Split = "train") -> Corpus:
    """Load a named corpus or a file.

    Args:
        name: one of `corpus_names()`, or the path of a `.txt`, `.jsonl`, `.json` or `.parquet` file. A part
            in percent may follow: `text.txt[:80%]` and `text.txt[80%:]` share nothing. A text (a single
            document) is cut by characters, all else between documents or examples.
        split: which split of a named corpus; `pydocs[:50%]` is half of that split. A file has no splits and
            is used whole.

    Raises:
        DataError: the name is unknown, the hub cannot be reached, the file is missing, damaged, of an unknown
            kind or without text, or the part is none.
    """
    if split not in get_args(Split):
        raise DataError(f"there is no split {split!r}; it is 'train' or 'test'")
    base, part = split_name(name)
    whole = _named(base, split) if base in corpus_names() else _file(base)
    documents, examples = whole.documents, whole.examples
    if part is not None:
        documents, examples = in_memory(_part_of(documents, part)), in_memory(_rows_of(examples, part))
        if whole.size and not (documents or examples):
            raise DataError(f"{name}: {part.written} of {whole.size:,} rows or documents is none; take a larger part")
    return _corpus(name, whole, documents, examples, f", part {part.written}" if part else "")


def check_texts(*names: str) -> None:
    """Find a mistyped or damaged text before a model is loaded. What is the hub's is not fetched for that.

    Raises:
        DataError: as `load_corpus`.
    """
    for name in names:
        if split_name(name)[0] not in HUB_CORPORA:
            load_corpus(name)


@dataclass(frozen=True)
class _Whole:
    documents: Collection[str]
    examples: Collection[Example]
    split: str
    source: str
    described: str
    is_file: bool = False

    @property
    def size(self) -> int:
        return len(self.documents) + len(self.examples)


def _part_of(documents: Collection[str], part: Part) -> Collection[str]:
    """A part of documents; of a single one, a part of its characters."""
    if isinstance(documents, TextFile):
        return documents.part(part)
    if len(documents) == 1:
        return [part.of(next(iter(documents)))]
    return _rows_of(documents, part)


def _rows_of(items: Collection[Item], part: Part) -> Collection[Item]:
    return items.part(part) if isinstance(items, RowFile) else part.of(list(items))


def _named(name: str, split: Split) -> _Whole:
    documents, examples = (pydocs(split), []) if name == _PYDOCS else load_from_hub(name, split)
    title = _pydocs_title() if name == _PYDOCS else HUB_CORPORA[name].title
    return _Whole(documents, examples, split, name, f"{name} ({title}), {split} split")


def _file(name: str) -> _Whole:
    path = expanded(name)
    try:
        found = is_file_kind(path) or path.exists()
    except OSError as error:
        raise DataError(f"{name[:80]!r} is neither a corpus nor a file: {error.strerror}") from error
    if not found:
        near = difflib.get_close_matches(name.lower(), corpus_names(), n=1, cutoff=0.5)
        guess = f" (did you mean {near[0]}?)" if near else ""
        known = ", ".join(corpus_names())
        raise DataError(f"no corpus or file is named {name!r}{guess}; give {known} or a {file_kinds()} file")
    documents, examples = open_file(path)
    return _Whole(documents, examples, "all", file_identity(path), path.name, is_file=True)


def _corpus(
    name: str, whole: _Whole, documents: Collection[str], examples: Collection[Example], described_part: str
) -> Corpus:
    try:
        fingerprint = _fingerprint(documents, examples)
    except UnicodeEncodeError as error:
        raise DataError(f"{name} holds half of a surrogate pair (\\ud800 to \\udfff), which is no text") from error
    corpus = Corpus(name, whole.split, documents, examples, whole.source, whole.described, fingerprint)
    if not any(piece.strip() for piece in pieces_of(corpus, _LOOKED_AT)):
        raise DataError(f"{name} holds no text; give one that does")
    counted = f", {len(examples):,} examples" if examples else ""
    lazy = isinstance(documents, RowFile) or isinstance(examples, RowFile)
    if isinstance(documents, RowFile):
        counted += f", {len(documents):,} documents"
    elif isinstance(documents, TextFile):
        counted += f", {documents.stop - documents.start:,} characters"
    elif not lazy:
        counted += f", {sum(map(len, pieces_of(corpus))):,} characters"
    described = f"{whole.described}{described_part}{counted}"
    large = lazy or isinstance(documents, TextFile) or (whole.is_file and sum(map(len, documents)) > LARGE)
    return replace(corpus, description=described, large=large)


def _fingerprint(documents: Collection[str], examples: Collection[Example]) -> str:
    for items in (documents, examples):
        if isinstance(items, (TextFile, RowFile)):
            return items.fingerprint
    return content_fingerprint(list(documents), list(examples))


def pydocs(split: Split) -> list[str]:
    """The topics of Python's own `help()`, in alphabetical order: the embedded corpus.

    `train` is the first topics with about 80 % of the characters, `test` the other topics without the
    paragraphs that a topic of `train` has as well: some topics are sections of others.

    Raises:
        DataError: this Python came without the module.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(f"{_PYDOCS} is missing: this Python has no pydoc_data.topics; give a text file") from error
    total = sum(len(text) for text in topics.values())
    train: list[str] = []
    test: list[str] = []
    before = 0
    for topic in sorted(topics):
        (train if before < _PYDOCS_TRAIN_SHARE * total else test).append(topics[topic])
        before += len(topics[topic])
    return train if split == "train" else _without_paragraphs_of(test, train)


def _without_paragraphs_of(documents: list[str], others: list[str]) -> list[str]:
    seen = {" ".join(paragraph.split()) for text in others for paragraph in text.split("\n\n")}
    kept = (
        "\n\n".join(part for part in text.split("\n\n") if " ".join(part.split()) not in seen) for text in documents
    )
    return [text for text in kept if text.strip()]


def _pydocs_title() -> str:
    return f"CPython {sys.version_info.major}.{sys.version_info.minor} pydoc topics"
