"""Several sources in one, each with its share: `a.jsonl:0.7,b.txt:0.3`."""

import logging
import re
from collections.abc import Callable, Sequence, Sized
from math import floor, isfinite
from typing import Any, TypeVar

from secateur.data.corpus import Corpus
from secateur.data.memory import InMemory, named, told_apart
from secateur.data.options import AS_IT_IS, DataOptions
from secateur.errors import OptionError
from secateur.files import expanded
from secateur.files.input_text import shortened

_SHARED = re.compile(r"(?P<name>.+):(?P<share>\d+(?:\.\d*)?|\.\d+)(?P<percent>%?)", re.DOTALL | re.ASCII)

Taken = TypeVar("Taken", bound=Sized)
logger = logging.getLogger(__name__)


def shares_of(name: str) -> list[tuple[str, float]]:
    """The sources that a text consists of, with shares that add up to 1. One without a share is the whole.

    A file of that very name, commas and colons included, is one source.

    Raises:
        OptionError: some of several sources have no share, or all are 0.
    """
    if isinstance(name, InMemory) or _exists(name):
        return [(name, 1.0)]
    parts = [(written, _SHARED.fullmatch(written)) for written in name.split(",")]
    if not any(found for _, found in parts):
        return [(name, 1.0)]
    told = shortened(name)
    sources = []
    for written, found in parts:
        if found is None:
            raise OptionError(f"{told}: {written!r} has no share; write one behind each source, a.jsonl:0.7,b.txt:0.3")
        sources.append((found["name"].strip(), float(found["share"]) / (100 if found["percent"] else 1)))
    total = sum(share for _, share in sources)
    if any(share == 0 for _, share in sources):
        raise OptionError(f"{told}: a share of 0 is none; leave the source out")
    if not isfinite(total):
        raise OptionError(f"{told}: its shares are too large to be added up; write shares of 1")
    return [(source, share / total) for source, share in sources]


def inputs_of(*names: str, options: DataOptions = AS_IT_IS) -> list[str]:
    """The names and paths that texts and their template are read from, for a check that no result replaces them."""
    sources = [source for name in names if not isinstance(name, InMemory) for source, _ in shares_of(name)]
    return [*sources, *([options.chat_template] if options.chat_template is not None else [])]


def texts_of(data: Any) -> list[str]:
    """The names of several texts. Neighbours with shares are one, and so is an object.

    Args:
        data: one text, or a list of names, paths and objects; a list of names is no list of texts.

    Raises:
        ValueError: one of them is no text.
    """
    several = isinstance(data, list | tuple) and not (data and all(isinstance(item, dict) for item in data))
    found: list[str] = []
    shared = False
    for name in map(named, data if several else [data]):
        has_share = not isinstance(name, InMemory) and _SHARED.fullmatch(name) is not None and not _exists(name)
        if has_share and shared:
            found[-1] += f",{name}"
        else:
            found.append(name)
        shared = has_share
    return told_apart(found)


def mixed(
    parts: Sequence[tuple[Corpus, float]], limit: int | None, take: Callable[[Corpus, int | None], Taken], name: str
) -> list[Taken]:
    """Take windows or examples of several sources, as many of each as its share says.

    Args:
        parts: the sources.
        limit: how many are wanted in all; None: as many as the shares allow.
        take: gives at most so many of one source.
        name: what messages call all of them.

    Returns:
        What is taken of the sources, in their order. Where one has less than its share, there is less of all.
    """
    shares = [share for _, share in parts]
    sources = [corpus for corpus, _ in parts]
    taken: list[Taken | None]
    if limit is None:
        taken = [take(corpus, None) for corpus in sources]
        counts = None
    else:
        counts = _counts(limit, shares)
        taken = [take(corpus, count) if count else None for corpus, count in zip(sources, counts, strict=True)]
    lengths = [0 if some is None else len(some) for some in taken]
    if counts != lengths:
        total = floor(min(length / share for length, share in zip(lengths, shares, strict=True)) + 1e-9)
        counts = _counts(max(1, total if limit is None else min(total, limit)), shares)
        taken = [
            some if length == count else take(corpus, count) if count else None
            for some, length, corpus, count in zip(taken, lengths, sources, counts, strict=True)
        ]
    found = [some for some in taken if some is not None]
    for (corpus, share), some in zip(parts, taken, strict=True):
        if some is None:
            logger.warning("nothing of %s is taken: its share is %.2g; ask for more, or raise it", corpus.title, share)
    logger.info("%s gives %s windows or examples", name, " + ".join(f"{len(some):,}" for some in found))
    return found


def _counts(total: int, shares: Sequence[float]) -> list[int]:
    """A number in whole parts, by largest remainder."""
    exact = [total * share for share in shares]
    counts = [floor(number + 1e-9) for number in exact]
    order = sorted(range(len(shares)), key=lambda place: (counts[place] - exact[place], place))
    for place in order[: total - sum(counts)]:
        counts[place] += 1
    return counts


def _exists(name: str) -> bool:
    try:
        return expanded(name).exists()
    except (OSError, ValueError):
        return False
