import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from secateur.data import Example, load_corpus
from secateur.errors import DataError

SCRIPT = """
import sys, time
from secateur.data import load_corpus
from secateur.errors import DataError
import datasets
for name in ("wikitext2", "c4", "alpaca"):
    start = time.monotonic()
    try:
        load_corpus(name)
    except DataError as error:
        print(name, round(time.monotonic() - start, 3), error, sep="|")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, "set HF_HUB_OFFLINE=1"),
        ({"HF_HUB_OFFLINE": "1"}, "unset HF_HUB_OFFLINE"),
    ],
)
def test_without_a_network_it_fails_within_seconds(tmp_path: Path, settings: dict[str, str], advice: str) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path), **settings}
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert [line.split("|")[0] for line in lines] == ["wikitext2", "c4", "alpaca"]
    for line in lines:
        _, seconds, message = line.split("|")
        assert float(seconds) < 10
        assert "hub" in message.lower()
        assert "give a .txt, .jsonl, .json or .parquet file instead" in message and advice in message


class Hub:
    """Stands in for `datasets.load_dataset` and remembers what it was asked for."""

    def __init__(self, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
        self.rows = rows
        self.asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def load_dataset(self, *args: Any, **options: Any) -> Any:
        self.asked.append((args, options))
        return self.rows


def connect(monkeypatch: pytest.MonkeyPatch, rows: Any) -> Hub:
    hub = Hub(rows)
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **options: None)
    return hub


def test_wikitext_keeps_its_empty_lines_and_takes_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = connect(monkeypatch, [{"text": ""}, {"text": " = Title = \n"}, {"text": ""}])
    corpus = load_corpus("wikitext2", "test")
    assert hub.asked == [(("Salesforce/wikitext", "wikitext-2-raw-v1"), {"split": "test"})]
    assert corpus.text == "\n\n = Title = \n\n\n"
    assert corpus.source == load_corpus("wikitext2", "train").source == "wikitext2"


def test_c4_reads_a_bounded_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = 0

    def endless() -> Iterator[dict[str, str]]:
        nonlocal drawn
        while True:
            drawn += 1
            yield {"text": f"document {drawn}", "url": "u"}

    hub = connect(monkeypatch, endless())
    corpus = load_corpus("c4", "train")
    assert len(corpus.documents) == drawn == 5000
    assert hub.asked[0][1]["streaming"] is True


def test_alpaca_rows_become_examples_and_the_splits_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = connect(monkeypatch, [{"instruction": "Greet.", "input": "", "output": "Hello", "text": "…"}])
    assert load_corpus("alpaca", "train").examples == [Example("Greet.", "", "Hello")]
    load_corpus("alpaca", "test")
    assert [options["split"] for _, options in hub.asked] == ["train[:95%]", "train[95%:]"]


def test_a_connection_lost_halfway_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking() -> Iterator[dict[str, str]]:
        yield {"text": "first"}
        raise ConnectionError("lost\nsecond line")

    connect(monkeypatch, breaking())
    with pytest.raises(DataError, match=r"c4 .*\(lost\)") as caught:
        load_corpus("c4")
    assert "\n" not in str(caught.value)
