"""Image, text and retrieval from the hub, which is stood in for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from test_data_sources import BATCHES, REVIEWS, pictures, texts

from secateur.errors import DataError
from secateur.longrange.data import LongRangeData, prepare


class Hub:
    """Stands in for a split of `datasets.load_dataset`."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.column_names = list(rows[0])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.rows[number]


def connect(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def load_dataset(repository: str, split: str) -> Any:
        asked.append((repository, split))
        return load()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *args, **options: None)
    return asked


def test_imdb_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = connect(monkeypatch, lambda: Hub([{"text": text, "label": label} for text, label in REVIEWS]))
    meta = prepare("text", tmp_path / "out")
    assert asked == [("stanfordnlp/imdb", "train"), ("stanfordnlp/imdb", "test")]
    assert meta.counts == {"train": 36, "dev": 4, "test": 40}
    assert texts(LongRangeData.load(tmp_path / "out"), "test") == [text for text, _ in REVIEWS]


def test_cifar_comes_from_the_hub_as_from_its_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, pixels = pictures(20, 1)
    images = [Image.fromarray(each.reshape(3, 32, 32).transpose(1, 2, 0)) for each in pixels]
    rows = [{"img": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    connect(monkeypatch, lambda: Hub(rows))
    prepare("image", tmp_path / "hub")
    (tmp_path / "cifar").mkdir()
    records = np.concatenate([labels[:, None], pixels], axis=1).tobytes()
    for name in BATCHES:
        (tmp_path / "cifar" / f"{name}.bin").write_bytes(records)
    prepare("image", tmp_path / "files", from_directory=tmp_path / "cifar")
    batches = [LongRangeData.load(tmp_path / name).test.batch(range(20)) for name in ("hub", "files")]
    assert batches[0].input_ids.equal(batches[1].input_ids) and batches[0].labels.equal(batches[1].labels)


@pytest.mark.parametrize(("task", "advice"), [("image", "cifar-10-binary.tar.gz"), ("text", "aclImdb_v1.tar.gz")])
def test_without_the_hub_it_says_what_to_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, advice: str
) -> None:
    def fail() -> None:
        raise ConnectionError("no route\nto host")

    connect(monkeypatch, fail)
    with pytest.raises(DataError, match=rf"\(no route\); download .*{advice}.*from_directory=") as caught:
        prepare(task, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_retrieval_without_files_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"on no hub; download .*lra_release\.gz.*from_directory="):
        prepare("retrieval", tmp_path / "out")


def test_another_data_set_under_the_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, lambda: Hub([{"words": "x"}]))
    with pytest.raises(DataError, match="has no column 'text'"):
        prepare("text", tmp_path / "out")
