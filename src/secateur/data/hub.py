"""The Hugging Face hub: whether it answers, and the corpora that come from it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import get_session

from secateur.data.columns import rows_to_content
from secateur.data.corpus import Answered
from secateur.data.reading import file_kinds, first_line
from secateur.errors import DataError

TIMEOUT_SECONDS = 5.0  # to connect to one address, and to wait for a part of the answer
REACH_SECONDS = 8.0  # for a whole answer: a name may stand for several addresses, and to look it up has no time limit

Answer = TypeVar("Answer")

_answered: set[str] = set()  # endpoints


@dataclass(frozen=True)
class HubCorpus:
    """Where a named corpus stands on the hub.

    Attributes:
        repository: of the data set.
        title: what it is, for a report.
        configuration: of the data set, where it has several.
        splits: which split, or which file with `streamed_rows`, serves as `train` and which as `test`. A data
            set without a test split gives its first 95 % for `train` and the rest for `test`.
        streamed_rows: read that many rows of the split's file, without fetching the rest.
    """

    repository: str
    title: str
    splits: dict[str, str]
    configuration: str | None = None
    streamed_rows: dict[str, int] | None = None


HUB_CORPORA = {
    "wikitext2": HubCorpus(
        repository="Salesforce/wikitext",
        title="WikiText-2, raw",
        configuration="wikitext-2-raw-v1",
        splits={"train": "train", "test": "test"},
    ),
    "c4": HubCorpus(
        repository="allenai/c4",
        title="C4, English, the first documents",
        splits={
            "train": "en/c4-train.00000-of-01024.json.gz",
            "test": "en/c4-validation.00000-of-00008.json.gz",
        },
        streamed_rows={"train": 5000, "test": 1000},
    ),
    "alpaca": HubCorpus(
        repository="tatsu-lab/alpaca",
        title="Stanford Alpaca",
        splits={"train": "train[:95%]", "test": "train[95%:]"},
    ),
}


def load_from_hub(name: str, split: str) -> tuple[list[str], list[Answered]]:
    """Fetch a corpus of `HUB_CORPORA`, or take it from the cache of `datasets`.

    Args:
        name: a key of `HUB_CORPORA`.
        split: `train` or `test`.

    Returns:
        Documents and examples, one of the two empty.

    Raises:
        DataError: the hub cannot be reached, or does not give what is asked for.
    """
    corpus = HUB_CORPORA[name]
    with hub_errors(name, f"give a {file_kinds()} file instead"):
        require_reachable(corpus.repository)
        return rows_to_content(_rows(corpus, split), name)


def require_reachable(repository: str) -> None:
    """Ask the hub for a data set, unless it is not to be asked. Raises as `in_time`."""
    import datasets

    if not datasets.config.HF_HUB_OFFLINE:
        # `datasets` tries six times for each of several files, minutes in all, before it says that there is no network.
        in_time(lambda: HfApi().dataset_info(repository, timeout=TIMEOUT_SECONDS, expand=["sha"]))


def require_hub() -> None:
    """Ask the hub for any answer, unless it is not to be asked for data. Raises as `in_time`."""
    import datasets

    if not datasets.config.HF_HUB_OFFLINE:
        _knock()


def hub_answers() -> bool:
    """Whether the hub may be asked and answers; where it does not, what its cache holds is all there is."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        _knock()
    except (HTTPError, OSError):
        return False
    return True


def _knock() -> None:
    """Ask the hub, or the mirror that HF_ENDPOINT names, for any answer, once it has given none yet.

    By the session of `huggingface_hub`, so through the proxy that the environment names. Raises as `in_time`.
    """
    endpoint = constants.ENDPOINT
    if endpoint not in _answered:
        in_time(lambda: get_session().head(endpoint, timeout=TIMEOUT_SECONDS, follow_redirects=False))
        _answered.add(endpoint)


def in_time(request: Callable[[], Answer]) -> Answer:
    """What a request to the hub gives.

    Raises:
        TimeoutError: it gives nothing within `REACH_SECONDS`.
        HTTPError, OSError: what `huggingface_hub` raises.
    """
    answers: list[Answer] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            answers.append(request())
        except Exception as error:  # noqa: BLE001 raised below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=ask, name="hub", daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"{constants.ENDPOINT} gave no answer within {REACH_SECONDS:g} seconds")
    return answers[0]


@contextmanager
def hub_errors(name: str, instead: str) -> Iterator[None]:
    """Raise `DataError` where the block fails to fetch `name`; `instead` says what its user may do without the hub."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (HTTPError, OSError, ValueError, DatasetsError) as error:
        offline = datasets.config.HF_HUB_OFFLINE
        problem = "is not in the cache" if offline else "cannot be fetched from the Hugging Face hub"
        remedy = "unset HF_HUB_OFFLINE" if offline else "set HF_HUB_OFFLINE=1 to use a copy fetched earlier"
        raise DataError(f"{name} {problem} ({first_line(error)}); {instead}, or {remedy}") from error


def _rows(corpus: HubCorpus, split: str) -> Iterable[Any]:
    import datasets

    if corpus.streamed_rows is None:
        return datasets.load_dataset(corpus.repository, corpus.configuration, split=corpus.splits[split])
    files = {split: corpus.splits[split]}
    stream = datasets.load_dataset(corpus.repository, data_files=files, split=split, streaming=True)
    return islice(stream, corpus.streamed_rows[split])
