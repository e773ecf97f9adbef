"""Corpora by name, files, objects, and several of them."""

import difflib
import hashlib
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import Tensor

from secateur.console import counted
from secateur.data.chat import ALPACA, MODEL, may_be_named, template_file
from secateur.data.corpus import Answered, Conversation, Corpus, content_fingerprint
from secateur.data.hub import HUB_CORPORA, load_from_hub
from secateur.data.lazy import LARGE, Item, Rows, TextFile, file_identity, in_memory, open_file
from secateur.data.memory import InMemory, RowStream, named, opened, token_rows
from secateur.data.options import AS_IT_IS, DataOptions
from secateur.data.pieces import pieces_of
from secateur.data.reading import file_kinds, is_file_kind
from secateur.data.slices import Part, split_name
from secateur.data.sources import shares_of
from secateur.errors import DataError, InputError
from secateur.files import expanded

Split = Literal["train", "test"]

_PYDOCS = "pydocs"
_PYDOCS_TRAIN_SHARE = 0.8
_LOOKED_AT = 1 << 12  # characters that are looked at together for a text


def corpus_names() -> list[str]:
    """The corpora that can be named, the embedded one first."""
    return [_PYDOCS, *HUB_CORPORA]


def load_corpus(data: Any, split: Split = "train", options: DataOptions = AS_IT_IS) -> Corpus:
    """Load a named corpus, a file, an object in memory, or several sources with shares.

    Args:
        data: one of `corpus_names()`, or the path of a `.txt`, `.jsonl`, `.json` or `.parquet` file. A part
            in percent may follow: `text.txt[:80%]` and `text.txt[80%:]` share nothing. A text (a single
            document) is cut by characters, all else between documents or examples. Several of them with
            shares, `a.jsonl:0.7,b.txt:0.3`, or an object: see `Data`.
        split: which split of a named corpus; `pydocs[:50%]` is half of that split. A file has no splits and
            is used whole.
        options: which columns of rows are read, and the template of conversations.

    Raises:
        DataError: the name is unknown, the hub cannot be reached, the file is missing, damaged, of an unknown
            kind or without text, the part is none, or a row that is read does not fit.
        InputError: the object is no text.
    """
    if split not in get_args(Split):
        raise DataError(f"there is no split {split!r}; it is 'train' or 'test'")
    try:
        name = named(data)
    except ValueError as error:
        raise InputError(str(error)) from error
    if isinstance(name, InMemory):
        return _object(name, options)
    sources = shares_of(name)
    if sources == [(name, 1.0)]:
        return _one(name, split, options)
    return _several(name, split, [(_one(source, split, options), share) for source, share in sources])


def _one(name: str, split: Split, options: DataOptions) -> Corpus:
    base, part = split_name(name)
    whole = _named(base, split) if base in corpus_names() else _file(base, options)
    documents, examples = whole.documents, whole.examples
    if part is not None:
        documents, examples = in_memory(_part_of(documents, part)), in_memory(_rows_of(examples, part))
        if whole.size and not (documents or examples):
            raise DataError(f"{name}: {part.written} of {whole.size:,} rows or documents is none; take a larger part")
    return _corpus(name, whole, documents, examples, f", part {part.written}" if part else "", options)


def _several(name: str, split: Split, parts: list[tuple[Corpus, float]]) -> Corpus:
    told = [
        (f"{corpus.description}, share {share:.4g}", f"{corpus.title}, share {share:.4g}") for corpus, share in parts
    ]
    digest = hashlib.sha256(" ".join(f"{corpus.fingerprint} {share}" for corpus, share in parts).encode())
    return Corpus(
        name=name,
        split=split,
        documents=[],
        examples=[],
        source="+".join(dict.fromkeys(corpus.source for corpus, _ in parts)),
        description="; ".join(described for described, _ in told),
        fingerprint=digest.hexdigest(),
        title="; ".join(title for _, title in told),
        large=any(corpus.large for corpus, _ in parts),
        parts=tuple(parts),
    )


def _object(name: InMemory, options: DataOptions) -> Corpus:
    if isinstance(name.content, Tensor):
        tokens = token_rows(name.content, name)
        found = hashlib.sha256(tokens.numpy().tobytes() + str(tuple(tokens.shape)).encode()).hexdigest()
        return Corpus(str(name), "all", [], [], found, str(name), found, title=str(name), tokens=tokens)
    documents, examples = opened(name, options)
    whole = _Whole(documents, examples, "all", "", str(name), is_file=True)
    corpus = _corpus(str(name), whole, documents, examples, "", options)
    return replace(corpus, source=corpus.fingerprint)


def check_texts(*names: str, options: DataOptions = AS_IT_IS) -> None:
    """Find a mistyped or damaged text before a model is loaded. What is the hub's is not fetched for that.

    Raises:
        DataError: as `load_corpus`.
        InputError: there is no such file with a template.
    """
    template = options.chat_template
    if template not in (None, MODEL, ALPACA) and not may_be_named(str(template)):
        template_file(str(template))
    for name in names:
        if isinstance(name, InMemory):
            load_corpus(name, options=options)
            continue
        for source, _ in shares_of(name):
            if split_name(source)[0] not in HUB_CORPORA:
                _one(source, "train", options)


@dataclass(frozen=True)
class _Whole:
    documents: Collection[str]
    examples: Collection[Answered]
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
    return items.part(part) if isinstance(items, Rows) else part.of(list(items))


def _named(name: str, split: Split) -> _Whole:
    documents, examples = (pydocs(split), []) if name == _PYDOCS else load_from_hub(name, split)
    title = _pydocs_title() if name == _PYDOCS else HUB_CORPORA[name].title
    return _Whole(documents, examples, split, name, f"{name} ({title}), {split} split")


def _file(name: str, options: DataOptions) -> _Whole:
    path = expanded(name)
    try:
        found = is_file_kind(path) or path.exists()
    except OSError as error:
        hint = _if_prose(name)
        raise DataError(f"{name[:80]!r} is neither a corpus nor a file: {error.strerror}{hint}") from error
    if not found:
        near = difflib.get_close_matches(name.lower(), corpus_names(), n=1, cutoff=0.5)
        guess = f" (did you mean {near[0]}?)" if near else ""
        known = ", ".join(corpus_names())
        raise DataError(
            f"no corpus or file is named {name!r}{guess}; give {known} or a {file_kinds()} file{_if_prose(name)}"
        )
    documents, examples = open_file(path, options)
    return _Whole(documents, examples, "all", file_identity(path), path.name, is_file=True)


def _if_prose(name: str) -> str:
    """What helps where a text stands in the place of its name."""
    return "; texts themselves go in a list, in evaluate as data=[texts]" if len(name.split()) > 4 else ""


def _corpus(
    name: str,
    whole: _Whole,
    documents: Collection[str],
    examples: Collection[Answered],
    described_part: str,
    options: DataOptions,
) -> Corpus:
    try:
        fingerprint = _fingerprint(documents, examples)
    except UnicodeEncodeError as error:
        raise DataError(f"{name} holds half of a surrogate pair (\\ud800 to \\udfff), which is no text") from error
    title = whole.described + described_part
    corpus = Corpus(
        name=name,
        split=whole.split,
        documents=documents,
        examples=examples,
        source=whole.source,
        description=title,
        fingerprint=fingerprint,
        title=title,
        chat_template=options.chat_template,
    )
    if not any(piece.strip() for piece in pieces_of(corpus, _LOOKED_AT)):
        raise DataError(f"{name} holds no text; give one that does")
    if isinstance(documents, RowStream) or isinstance(examples, RowStream):
        return replace(corpus, large=True, is_stream=True)
    amount = f", {_counted(examples)}" if examples else ""
    lazy = isinstance(documents, Rows) or isinstance(examples, Rows)
    if isinstance(documents, Rows):
        amount += f", {len(documents):,} documents"
    elif isinstance(documents, TextFile):
        amount += f", {documents.stop - documents.start:,} characters"
    elif not lazy:
        amount += f", {sum(map(len, pieces_of(corpus))):,} characters"
    large = lazy or isinstance(documents, TextFile) or (whole.is_file and sum(map(len, documents)) > LARGE)
    return replace(corpus, description=title + amount, large=large)


def _counted(examples: Collection[Answered]) -> str:
    kind = "conversation" if isinstance(next(iter(examples)), Conversation) else "example"
    return counted(len(examples), kind)


def _fingerprint(documents: Collection[str], examples: Collection[Answered]) -> str:
    for items in (documents, examples):
        if isinstance(items, (TextFile, Rows)):
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
