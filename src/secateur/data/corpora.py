"""Corpora by name, and files."""

import difflib
import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from secateur.data.corpus import Corpus, Example, content_fingerprint
from secateur.data.hub import HUB_CORPORA, load_from_hub
from secateur.data.reading import file_kinds, is_file_kind, read_file
from secateur.data.slices import split_name
from secateur.errors import DataError

Split = Literal["train", "test"]

_PYDOCS = "pydocs"
_PYDOCS_TRAIN_SHARE = 0.8


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
    if part is None:
        documents, examples = whole.documents, whole.examples
    elif len(whole.documents) == 1:
        documents, examples = [part.of(whole.documents[0])], []
    else:
        documents, examples = part.of(whole.documents), part.of(whole.examples)
    if part is not None and whole.size and not (documents or examples):
        raise DataError(f"{name}: {part.written} of {whole.size:,} rows or documents is none; take a larger part")
    return _corpus(name, whole, documents, examples, f", part {part.written}" if part else "")


@dataclass(frozen=True)
class _Whole:
    documents: list[str]
    examples: list[Example]
    split: str
    source: str
    described: str

    @property
    def size(self) -> int:
        return len(self.documents) + len(self.examples)


def _named(name: str, split: Split) -> _Whole:
    documents, examples = (pydocs(split), []) if name == _PYDOCS else load_from_hub(name, split)
    title = _pydocs_title() if name == _PYDOCS else HUB_CORPORA[name].title
    return _Whole(documents, examples, split, name, f"{name} ({title}), {split} split")


def _file(name: str) -> _Whole:
    path = Path(name).expanduser()
    try:
        found = is_file_kind(path) or path.exists()
    except OSError as error:
        raise DataError(f"{name[:80]!r} is neither a corpus nor a file: {error.strerror}") from error
    if not found:
        near = difflib.get_close_matches(name.lower(), corpus_names(), n=1, cutoff=0.5)
        guess = f" (did you mean {near[0]}?)" if near else ""
        known = ", ".join(corpus_names())
        raise DataError(f"no corpus or file is named {name!r}{guess}; give {known} or a {file_kinds()} file")
    documents, examples = read_file(path)
    return _Whole(documents, examples, "all", _file_identity(path), path.name)


def _corpus(name: str, whole: _Whole, documents: list[str], examples: list[Example], described_part: str) -> Corpus:
    try:
        fingerprint = content_fingerprint(documents, examples)
    except UnicodeEncodeError as error:
        raise DataError(f"{name} holds half of a surrogate pair (\\ud800 to \\udfff), which is no text") from error
    corpus = Corpus(name, whole.split, documents, examples, whole.source, whole.described, fingerprint)
    text = corpus.text
    if not text.strip():
        raise DataError(f"{name} holds no text; give one that does")
    counted = f", {len(examples):,} examples" if examples else ""
    return replace(corpus, description=f"{whole.described}{described_part}{counted}, {len(text):,} characters")


def _file_identity(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


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
