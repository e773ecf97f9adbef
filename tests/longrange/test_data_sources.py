import csv
import importlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateur.errors import DataError, OutputError
from secateur.longrange.data import LongRangeData, config, prepare
from secateur.longrange.data.store import write_shard

# The package offers the function of the same name.
PREPARE = importlib.import_module("secateur.longrange.data.prepare")

Build = Callable[[Path], None]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SHARD_ROWS", 16)


def pictures(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 10, number, np.uint8), rng.integers(0, 256, (number, 3072), np.uint8)


BATCHES = {**{f"data_batch_{number}": number for number in range(1, 6)}, "test_batch": 6}


def cifar_binary(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, seed in BATCHES.items():
        labels, pixels = pictures(10, seed)
        (root / f"{name}.bin").write_bytes(np.concatenate([labels[:, None], pixels], axis=1).tobytes())


def cifar_python(root: Path, protocol: int = 2) -> None:
    root = root / "cifar-10-batches-py"
    root.mkdir(parents=True)
    for name, seed in BATCHES.items():
        labels, pixels = pictures(10, seed)
        batch = {b"labels": labels.tolist(), b"data": pixels, b"batch_label": name.encode()}
        (root / name).write_bytes(pickle.dumps(batch, protocol=protocol))


REVIEWS = [(f"review {number} " + "very " * (number % 7) + "fine …", number % 2) for number in range(40)]


def acl_folders(root: Path) -> None:
    for split in ("train", "test"):
        for number, (text, label) in enumerate(REVIEWS):
            folder = root / "aclImdb" / split / ("neg", "pos")[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}_7.txt").write_text(f"{split} {text}", encoding="utf-8")


def write_csv(path: Path, header: tuple[str, str], rows: list[tuple[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def kaggle_csv(root: Path) -> None:
    names = ("negative", "positive")
    rows: list[tuple[str, object]] = [(f'{text}\n"quoted", and so on', names[label]) for text, label in REVIEWS]
    write_csv(root / "IMDB Dataset.csv", ("review", "sentiment"), rows)


def split_csv(root: Path) -> None:
    for split in ("train", "dev", "test"):
        write_csv(root / f"{split}.csv", ("label", "text"), [(str(label), text) for text, label in REVIEWS])  # type: ignore[misc]


def pairs(root: Path, rows: int = 40) -> None:
    root = root / "lra_release" / "tsv_data"
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "eval", "test"):
        lines = [f'{number % 2}.0\tP{number}\tQ{number}\t{split} "one {number}\ttwo {number}' for number in range(rows)]
        (root / f"new_aan_pairs.{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def texts(data: LongRangeData, split: str, second: bool = False) -> list[str]:
    part = getattr(data, split)
    batch = part.batch(range(len(part)))
    ids = batch.input_ids_2 if second else batch.input_ids
    return [bytes(token - 1 for token in line if token).decode(errors="ignore") for line in ids.tolist()]


@pytest.mark.parametrize("build", [cifar_binary, cifar_python, lambda root: cifar_python(root, protocol=4)])
def test_cifar_becomes_grey_bytes(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "cifar")
    meta = prepare("image", tmp_path / "out", from_directory=tmp_path / "cifar")
    data = LongRangeData.load(tmp_path / "out")
    assert meta.counts == {"train": 45, "dev": 5, "test": 10}
    assert (meta.vocab_size, meta.num_classes, meta.max_length) == (257, 10, 1024)
    labels, pixels = pictures(10, BATCHES["test_batch"])
    grey = np.rint(np.array([0.299, 0.587, 0.114]) @ pixels.reshape(10, 3, 1024).astype(float))
    batch = data.test.batch(range(10))
    assert batch.labels.tolist() == labels.tolist()
    # Halves may round either way in floating point.
    assert np.abs(batch.input_ids.numpy() - 1 - grey).max() <= 1
    assert (batch.input_ids.numpy() - 1 == grey).mean() > 0.999


def test_binary_and_python_batches_give_the_same_files(tmp_path: Path) -> None:
    cifar_binary(tmp_path / "bin")
    cifar_python(tmp_path / "py")
    for kind in ("bin", "py"):
        prepare("image", tmp_path / f"out-{kind}", from_directory=tmp_path / kind)
    for file in (tmp_path / "out-bin").glob("*.arrow"):
        assert file.read_bytes() == (tmp_path / "out-py" / file.name).read_bytes()


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was-run",)


def test_a_python_batch_that_would_run_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cifar_python(tmp_path / "cifar")
    (tmp_path / "cifar" / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({"data": Malicious()}))
    with pytest.raises(DataError, match=r"data_batch_3 is damaged or no batch .*mkdir, which is not loaded"):
        prepare("image", tmp_path / "out", from_directory=tmp_path / "cifar")
    assert not Path("was-run").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cifar-10-batches-py/data_batch_1", b"\x80\x02}q", "damaged or no batch"),
        ("cifar-10-batches-py/data_batch_1", b"", "damaged or no batch"),
        ("cifar-10-batches-py/data_batch_1", pickle.dumps({"data": 3, "labels": [1]}), "damaged or no batch"),
        ("cifar-10-batches-py/data_batch_1", pickle.dumps([1]), "damaged or no batch"),
        ("data_batch_2.bin", b"\x01" * 5000, "5,000 bytes are no whole number of pictures"),
        ("data_batch_2.bin", b"", "0 bytes are no whole number of pictures"),
        ("data_batch_2.bin", b"\x0b" * 3073, "a label is 11"),
    ],
)
def test_a_damaged_batch_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (cifar_binary if name.endswith(".bin") else cifar_python)(tmp_path / "cifar")
    (tmp_path / "cifar" / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        prepare("image", tmp_path / "out", from_directory=tmp_path / "cifar", dev=1)
    assert Path(name).name in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    cifar_binary(tmp_path / "cifar")
    (tmp_path / "cifar" / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"misses data_batch_4\.bin"):
        prepare("image", tmp_path / "out", from_directory=tmp_path / "cifar")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (4, {}, "4 examples, of which a tenth, so none, would be for test and dev; .* with test= and dev=$"),
        (4, {"test": 1}, "4 examples, of which a tenth, so none, would be for dev; .* how many with dev=$"),
        (
            4,
            {"train": 9, "dev": 1, "test": 1},
            "2 examples for train, and train= asks for 9; lower it or give more",
        ),
        (4, {"dev": 2, "test": 2}, "no examples left for train; give more data or lower test= or dev=$"),
        (0, {}, "no examples for train; give more data$"),
    ],
)
def test_too_few_rows_for_a_split(tmp_path: Path, rows: int, options: dict[str, int], message: str) -> None:
    content = "".join(f"review {number},1\n" for number in range(rows))
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "all.csv").write_text(f"text,label\n{content}")
    with pytest.raises(DataError, match=f"^text has {message}"):
        prepare("text", tmp_path / "out", from_directory=tmp_path / "csv", **options)


def test_imdb_folders_become_bytes_and_dev_is_a_tenth_of_train(tmp_path: Path) -> None:
    acl_folders(tmp_path / "imdb")
    meta = prepare("text", tmp_path / "out", from_directory=tmp_path / "imdb")
    data = LongRangeData.load(tmp_path / "out")
    assert meta.counts == {"train": 36, "dev": 4, "test": 40}
    expected = {f"train {text}": label for text, label in REVIEWS}
    seen = texts(data, "train") + texts(data, "dev")
    assert sorted(seen) == sorted(expected)
    labels = data.train.batch(range(36)).labels.tolist() + data.dev.batch(range(4)).labels.tolist()
    assert labels == [expected[text] for text in seen]
    assert all(text.startswith("test ") for text in texts(data, "test"))


def test_texts_are_cut_by_bytes(tmp_path: Path) -> None:
    write_csv(tmp_path / "imdb" / "train.csv", ("text", "label"), [("é" * 100, 1), ("", 0), *[("short", 1)] * 18])
    meta = prepare("text", tmp_path / "out", from_directory=tmp_path / "imdb", max_length=33)
    data = LongRangeData.load(tmp_path / "out")
    longest = [max((len(text) for text in texts(data, split)), default=0) for split in ("train", "dev", "test")]
    assert max(figures.longest for figures in meta.statistics.values()) == 33
    assert max(longest) == 16  # the last half of a letter is left out by decode
    assert "\n" in [text for split in ("train", "dev", "test") for text in texts(data, split)]


def test_a_lone_csv_is_split_three_ways(tmp_path: Path) -> None:
    kaggle_csv(tmp_path / "imdb")
    meta = prepare("text", tmp_path / "out", from_directory=tmp_path / "imdb")
    data = LongRangeData.load(tmp_path / "out")
    assert meta.counts == {"train": 32, "dev": 4, "test": 4}
    seen = [text for split in ("train", "dev", "test") for text in texts(data, split)]
    assert sorted(seen) == sorted(f'{text}\n"quoted", and so on' for text, _ in REVIEWS)


def test_named_csv_files_are_the_splits(tmp_path: Path) -> None:
    split_csv(tmp_path / "imdb")
    meta = prepare("text", tmp_path / "out", from_directory=tmp_path / "imdb")
    assert meta.counts == {"train": 40, "dev": 40, "test": 40}
    assert texts(LongRangeData.load(tmp_path / "out"), "train") == [text for text, _ in REVIEWS]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("review,sentiment\nfine,maybe\n", "line 2: the label is 'maybe'; it must be positive or negative"),
        ("review,sentiment\nfine\n", "line 2: 1 columns where the header has 2"),
        ("title,stars\nfine,1\n", "has 'title', 'stars'; it needs a column 'review' or 'text'"),
        ("review,stars\nfine,1\n", "needs a column 'sentiment' or 'label'"),
        ("", "has no columns"),
        (b"review,sentiment\n\xff\xfe,1\n", "is not UTF-8"),
        ("review,sentiment\n" + "x" * 200_000 + ",1\n", "no readable CSV"),
        ("review,sentiment\n", "has no examples for train; give more data"),
    ],
)
def test_a_bad_csv_is_named_with_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "test.csv").write_text("review,sentiment\nfine,1\n")
    (tmp_path / "dev.csv").write_text("review,sentiment\nfine,1\n")
    with pytest.raises(DataError, match=message) as caught:
        prepare("text", tmp_path / "out", from_directory=tmp_path)
    assert "\n" not in str(caught.value)


def test_pairs_have_two_inputs_and_their_own_splits(tmp_path: Path) -> None:
    pairs(tmp_path / "aan")
    meta = prepare("retrieval", tmp_path / "out", from_directory=tmp_path / "aan")
    data = LongRangeData.load(tmp_path / "out")
    assert meta.two_inputs and meta.counts == {"train": 40, "dev": 40, "test": 40}
    assert texts(data, "dev") == [f'eval "one {number}' for number in range(40)]
    assert texts(data, "dev", second=True) == [f"two {number}" for number in range(40)]
    assert data.dev.batch([0, 1, 2]).labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\ta\tb\tone", "line 41: 4 fields; it must be label, id1, id2, text1 and text2"),
        ("7\ta\tb\tone\ttwo", "line 41: the label is b'7'; it must be 0 or 1"),
    ],
)
def test_a_bad_line_of_pairs_is_named(tmp_path: Path, line: str, message: str) -> None:
    pairs(tmp_path / "aan")
    with (tmp_path / "aan/lra_release/tsv_data/new_aan_pairs.train.tsv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        prepare("retrieval", tmp_path / "out", from_directory=tmp_path / "aan")


@pytest.mark.parametrize(("task", "build"), [("text", acl_folders), ("text", kaggle_csv), ("retrieval", pairs)])
def test_a_stopped_prepare_of_files_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, build: Build
) -> None:
    build(tmp_path / "source")
    prepare(task, tmp_path / "whole", from_directory=tmp_path / "source")

    def write(path: Path, rows: list) -> None:
        if path.name == "train-00001.arrow":
            raise KeyboardInterrupt
        write_shard(path, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PREPARE, "write_shard", write)
        with pytest.raises(KeyboardInterrupt):
            prepare(task, tmp_path / "parts", from_directory=tmp_path / "source")
    prepare(task, tmp_path / "parts", from_directory=tmp_path / "source")
    names = [file.name for file in (tmp_path / "whole").glob("*.arrow")]
    assert len(names) > 3
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_a_subset_is_chosen_by_the_seed_from_everywhere(tmp_path: Path) -> None:
    acl_folders(tmp_path / "imdb")
    for seed in (0, 1):
        prepare("text", tmp_path / str(seed), from_directory=tmp_path / "imdb", train=20, dev=10, test=5, seed=seed)
    first, second = (LongRangeData.load(tmp_path / str(seed)) for seed in (0, 1))
    assert len(first.train) == 20 and len(first.dev) == 10 and len(first.test) == 5
    assert texts(first, "train") != texts(second, "train")
    assert set(first.train.batch(range(20)).labels.tolist()) == {0, 1}
    assert not set(texts(first, "train")) & set(texts(first, "dev"))


def test_more_examples_than_there_are_is_refused(tmp_path: Path) -> None:
    acl_folders(tmp_path / "imdb")
    with pytest.raises(DataError, match="text has 36 examples for train, and train= asks for 37; lower it"):
        prepare("text", tmp_path / "out", from_directory=tmp_path / "imdb", train=37)


def test_a_changed_source_is_no_resumption(tmp_path: Path) -> None:
    pairs(tmp_path / "a")
    pairs(tmp_path / "b", rows=41)
    prepare("retrieval", tmp_path / "out", from_directory=tmp_path / "a")
    with pytest.raises(OutputError, match="data of another source"):
        prepare("retrieval", tmp_path / "out", from_directory=tmp_path / "b")


def test_overwriting_deletes_nothing_where_the_source_fails_and_never_the_source(tmp_path: Path) -> None:
    pairs(tmp_path / "aan")
    prepare("retrieval", tmp_path / "out", from_directory=tmp_path / "aan")
    with pytest.raises(DataError):
        prepare("text", tmp_path / "out", overwrite=True)
    LongRangeData.load(tmp_path / "out")
    for place in (tmp_path, tmp_path / "aan"):
        with pytest.raises(OutputError, match="which is still needed; name another directory"):
            prepare("retrieval", place, from_directory=tmp_path / "aan", overwrite=True)
    acl_folders(tmp_path / "imdb")
    with pytest.raises(OutputError, match="holds something that is not prepared data; name another directory"):
        prepare("text", tmp_path / "imdb/aclImdb/train", from_directory=tmp_path / "imdb", overwrite=True)


def test_what_is_replaced_stays_until_the_new_data_are_complete(tmp_path: Path) -> None:
    pairs(tmp_path / "aan")
    prepare("retrieval", tmp_path / "out", from_directory=tmp_path / "aan")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    (file,) = (tmp_path / "aan").rglob("new_aan_pairs.test.tsv")
    file.write_text(file.read_text() + "nonsense\n")
    with pytest.raises(DataError):
        prepare("retrieval", tmp_path / "out", from_directory=tmp_path / "aan", overwrite=True)
    assert all((tmp_path / "out" / name).read_bytes() == content for name, content in before.items())
    pairs(tmp_path / "aan", rows=30)
    meta = prepare("retrieval", tmp_path / "out", from_directory=tmp_path / "aan", overwrite=True)
    assert LongRangeData.load(tmp_path / "out").meta == meta
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aan", "out"]


@pytest.mark.parametrize(
    ("task", "wanted", "download"),
    [
        ("image", "data_batch_1", "cs.toronto.edu/~kriz/cifar.html"),
        ("text", "train/pos", "aclImdb_v1.tar.gz"),
        ("retrieval", r"new_aan_pairs\.train\.tsv", "lra_release.gz"),
    ],
)
def test_a_directory_of_something_else_says_what_to_get(tmp_path: Path, task: str, wanted: str, download: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "readme.md").write_text("x")
    with pytest.raises(DataError, match=f"holds readme.md, but no {wanted}.*{download}.*from_directory=") as caught:
        prepare(task, tmp_path / "out", from_directory=tmp_path / "source")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="is no directory"):
        prepare(task, tmp_path / "out", from_directory=tmp_path / "nowhere")
