import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from secateur.data import Example, hub, load_corpus
from secateur.errors import DataError, ModelError
from secateur.models import load


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes a URL the hub, whose cache is empty."""

    def place(endpoint: str, offline: bool = False) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
        monkeypatch.setattr(hub, "_answered", set())

    return place


@pytest.mark.parametrize("name", ["wikitext2", "c4", "alpaca"])
@pytest.mark.parametrize(
    ("offline", "advice"), [(False, "set HF_HUB_OFFLINE=1"), (True, "unset HF_HUB_OFFLINE")], ids=["refused", "offline"]
)
def test_without_a_network_it_fails_at_once(at: Any, name: str, offline: bool, advice: str) -> None:
    at("http://127.0.0.1:9", offline)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_corpus(name)
    message = str(caught.value)
    assert time.monotonic() - start < 5
    assert "hub" in message.lower()
    assert "give a .txt, .jsonl, .json or .parquet file instead" in message and advice in message


def test_a_hub_that_takes_the_call_and_says_nothing(at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "REACH_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DataError, match=r"gave no answer within 0\.1 seconds"):
            load_corpus("wikitext2")
        with pytest.raises(ModelError, match="nor in the hub's cache, and the hub cannot be reached"):
            load("someone/some-model")


@pytest.mark.parametrize("by_proxy", [False, True])
def test_a_mirror_or_a_proxy_that_refuses_has_answered(
    at: Any, by_proxy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as mirror:
        threading.Thread(target=mirror.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{mirror.server_port}"
        if by_proxy:
            monkeypatch.setenv("http_proxy", url)
        at("http://hub.invalid" if by_proxy else url)
        huggingface_hub.close_session()  # the next one reads the environment
        assert hub.hub_answers()
        with pytest.raises(ModelError, match="the hub does not give it"):
            load("someone/some-model")
        mirror.shutdown()
    huggingface_hub.close_session()


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers everything with 403."""

    def do_GET(self) -> None:
        self.send_error(403)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Says nothing."""


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
