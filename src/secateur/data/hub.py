"""The corpora that come from the Hugging Face hub."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from secateur.data.columns import rows_to_content
from secateur.data.corpus import Answered
from secateur.data.reading import file_kinds, first_line
from secateur.errors import DataError

TIMEOUT_SECONDS = 5.0


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
    """Ask the hub for a data set, unless it is not to be asked. Raises what `huggingface_hub` raises."""
    import datasets

    if not datasets.config.HF_HUB_OFFLINE:
        # `datasets` tries six times, half a minute in all, before it says that there is no network.
        HfApi().dataset_info(repository, timeout=TIMEOUT_SECONDS, expand=["sha"])


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
