import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import DataError, InputError, OutputError
from secateur.longrange.data import LongRangeData, Meta, PrepareConfig, config, prepare, store
from secateur.longrange.data.rows import Row
from secateur.longrange.data.store import Split, open_shard, write_shard

# The package offers the function of the same name.
PREPARE = importlib.import_module("secateur.longrange.data.prepare")

SMALL = {"train": 70, "dev": 20, "test": 20, "max_length": 64}
FILES = ["train-00000.arrow", "train-00001.arrow", "train-00002.arrow", "dev-00000.arrow", "test-00000.arrow"]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SHARD_ROWS", 32)


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.suffix == ".arrow"}


def without_seconds(meta: Meta) -> dict:
    return {name: value for name, value in meta.to_dict().items() if name != "seconds"}


sequences = st.lists(st.integers(1, 65_535), min_size=1, max_size=30)


@given(data=st.data(), two=st.booleans())
@settings(max_examples=25, deadline=None)
def test_rows_come_back_padded_in_the_order_asked(data: st.DataObject, two: bool, tmp_path_factory) -> None:
    pairs = data.draw(st.lists(st.tuples(sequences, sequences, st.integers(0, 9)), min_size=1, max_size=12))
    rows = [Row(tuple(np.array(each, np.uint16) for each in pair[: 1 + two]), pair[2]) for pair in pairs]
    directory = tmp_path_factory.mktemp("shards")
    cut = data.draw(st.integers(0, len(rows) - 1))
    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    for number, part in enumerate(parts):
        write_shard(directory / f"{number}.arrow", part)
    split = Split([open_shard(directory / f"{number}.arrow", two) for number in range(len(parts))])
    assert len(split) == len(rows)
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    pad_to = data.draw(st.sampled_from([None, 30, 40]))
    batch = split.batch(indices, pad_to)
    assert batch.labels.tolist() == [rows[index].label for index in indices]
    assert (batch.input_ids_2 is not None) == two
    longest = max((len(tokens) for index in indices for tokens in rows[index].inputs), default=0)
    for which, ids in enumerate([batch.input_ids, batch.input_ids_2][: 1 + two]):
        assert ids.dtype == torch.int64 and ids.shape == (len(indices), pad_to or longest)
        for line, index in zip(ids.tolist(), indices, strict=True):
            tokens = rows[index].inputs[which].tolist()
            assert line == tokens + [0] * (len(line) - len(tokens))


def test_a_batch_refuses_rows_that_are_not_there_and_too_little_room(tmp_path: Path) -> None:
    prepare("listops", tmp_path / "data", **SMALL)
    data = LongRangeData.load(tmp_path / "data")
    for wrong in (70, -1):
        with pytest.raises(IndexError, match="the split has 70"):
            data.train.batch([0, wrong])
    with pytest.raises(InputError, match="does not fit into 16"):
        data.train.batch([0], pad_to=16)


def test_a_batch_can_be_taken_apart_and_moved(tmp_path: Path) -> None:
    prepare("listops", tmp_path / "data", **SMALL)
    batch = LongRangeData.load(tmp_path / "data").train.batch(range(10))
    parts = batch.split(4)
    assert [len(part.labels) for part in parts] == [4, 4, 2]
    assert torch.cat([part.input_ids for part in parts]).equal(batch.input_ids)
    assert batch.to("meta").labels.device.type == "meta" and batch.to("cpu").input_ids_2 is None


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    metas = [prepare("listops", tmp_path / str(run), seed=seed, **SMALL) for run, seed in enumerate([3, 3, 4])]
    first, second, other = (contents(tmp_path / str(run)) for run in range(3))
    assert sorted(first) == sorted(FILES) == sorted(other)
    assert first == second
    assert all(first[name] != other[name] for name in FILES)
    assert without_seconds(metas[0]) == without_seconds(metas[1])


@pytest.mark.slow
def test_pathfinder_is_prepared_alike_from_the_same_seed(tmp_path: Path) -> None:
    for run in ("first", "second"):
        meta = prepare("pathfinder", tmp_path / run, train=32, dev=8, test=8, path_length=6)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert (meta.vocab_size, meta.num_classes) == (257, 2)
    assert all(figures.class_shares == [0.5, 0.5] for figures in meta.statistics.values())
    assert LongRangeData.load(tmp_path / "first").train.batch([0, 31]).input_ids.shape == (2, 1024)


def test_more_examples_begin_with_those_of_fewer(tmp_path: Path) -> None:
    prepare("listops", tmp_path / "few", **SMALL)
    prepare("listops", tmp_path / "more", **{**SMALL, "train": 100})
    few, more = (LongRangeData.load(tmp_path / name).train.batch(range(70), 64) for name in ("few", "more"))
    assert torch.equal(few.input_ids, more.input_ids)


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3, 4])
def test_a_prepare_that_was_killed_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    whole = prepare("listops", tmp_path / "whole", **SMALL)
    written: list[str] = []

    def write(path: Path, rows: list[Row]) -> None:
        if len(written) == stop_after:
            raise KeyboardInterrupt
        written.append(path.name)
        write_shard(path, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PREPARE, "write_shard", write)
        with pytest.raises(KeyboardInterrupt):
            prepare("listops", tmp_path / "parts", **SMALL)
    assert written == FILES[:stop_after]
    with pytest.raises(DataError, match="is not finished; run the same"):
        LongRangeData.load(tmp_path / "parts")
    before = {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in written}
    resumed = prepare("listops", tmp_path / "parts", **SMALL)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert without_seconds(resumed) == without_seconds(whole)
    assert before == {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in written}


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    prepare("listops", tmp_path / "data", **SMALL)
    (tmp_path / "data" / ".train-00000.arrow.secateur-new").write_bytes(b"half")
    prepare("listops", tmp_path / "data", overwrite=True, **SMALL)
    assert {file.name for file in (tmp_path / "data").iterdir()} == {
        *FILES,
        "meta.json",
        "options.json",
        ".secateur.json",
    }


def test_overwriting_keeps_the_old_data_until_the_new_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("listops", tmp_path / "data", **SMALL)
    before = contents(tmp_path / "data")
    written: list[Path] = []

    def write(path: Path, rows: list[Row]) -> None:
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt
        write_shard(path, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PREPARE, "write_shard", write)
        with pytest.raises(KeyboardInterrupt):
            prepare("listops", tmp_path / "data", overwrite=True, seed=1, **SMALL)
    assert contents(tmp_path / "data") == before
    assert prepare("listops", tmp_path / "data", overwrite=True, seed=1, **SMALL).seed == 1
    assert contents(tmp_path / "data") != before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    (tmp_path / "data" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds notes\.txt, which secateur did not write"):
        prepare("listops", tmp_path / "data", overwrite=True, **SMALL)


def test_a_finished_directory_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = prepare("listops", tmp_path / "data", **SMALL)
    monkeypatch.setattr(PREPARE, "write_shard", None)
    assert prepare("listops", tmp_path / "data", PrepareConfig(**SMALL)) == meta


def test_other_options_or_other_things_ask_for_overwrite(tmp_path: Path) -> None:
    prepare("listops", tmp_path / "data", **SMALL)
    with pytest.raises(OutputError, match=r"another seed \(0, not 1\).*overwrite=True"):
        prepare("listops", tmp_path / "data", seed=1, **SMALL)
    with pytest.raises(OutputError, match="another task"):
        prepare("pathfinder", tmp_path / "data", train=1, dev=1, test=1)
    assert prepare("listops", tmp_path / "data", overwrite=True, seed=1, **SMALL).seed == 1
    (tmp_path / "data" / "options.json").write_text("[")
    with pytest.raises(OutputError, match=r"options\.json is damaged.*overwrite=True"):
        prepare("listops", tmp_path / "data", **SMALL)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="already holds something"):
        prepare("listops", tmp_path / "notes", **SMALL)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"


def test_no_example_stands_twice_within_or_across_splits(tmp_path: Path) -> None:
    prepare("listops", tmp_path / "data", train=3000, dev=500, test=500, max_length=32)
    data = LongRangeData.load(tmp_path / "data")
    rows = [
        tuple(line)
        for split in (data.train, data.dev, data.test)
        for line in split.batch(range(len(split)), 32).input_ids.tolist()
    ]
    assert len(set(rows)) == len(rows) == 4000


def test_an_example_that_an_earlier_split_has_is_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(rng: np.random.Generator, _: int):
        while True:
            yield Row((rng.integers(1, 12, 2).astype(np.uint16),), 0)

    monkeypatch.setattr("secateur.longrange.data.listops.draw_examples", draw)
    prepare("listops", tmp_path / "data", train=70, dev=20, test=20)
    data = LongRangeData.load(tmp_path / "data")
    rows = [tuple(line) for split in (data.train, data.dev, data.test) for line in split.batch(range(20)).input_ids]
    assert len({tuple(map(int, row)) for row in rows}) == 60


def test_one_file_of_rows_is_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, written = 0, 0

    def draw(rng: np.random.Generator, _: int):
        nonlocal drawn
        while True:
            drawn += 1
            yield Row((rng.integers(1, 16, 40).astype(np.uint16),), 1)

    def write(path: Path, rows: list[Row]) -> None:
        nonlocal written
        assert len(rows) <= 32
        assert drawn - written == len(rows)
        written += len(rows)
        write_shard(path, rows)

    monkeypatch.setattr("secateur.longrange.data.listops.draw_examples", draw)
    monkeypatch.setattr(PREPARE, "write_shard", write)
    prepare("listops", tmp_path / "data", train=500, dev=10, test=10)
    assert written == 520


def test_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    meta = prepare("listops", tmp_path / "data", **SMALL)
    data = LongRangeData.load(tmp_path / "data")
    batch = data.train.batch(range(70))
    lengths = (batch.input_ids > 0).sum(1).double()
    figures = meta.statistics["train"]
    assert figures.rows == 70 and meta.counts == {"train": 70, "dev": 20, "test": 20}
    assert figures.mean_length == pytest.approx(lengths.mean().item())
    assert figures.median_length == np.median(lengths.numpy())
    assert figures.longest == lengths.max().item()
    assert figures.class_shares == pytest.approx((torch.bincount(batch.labels, minlength=10) / 70).tolist())
    assert data.meta == meta and meta.seconds > 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "it has .* bytes, not"),
        (flip, "its checksum differs"),
        (Path.unlink, "it has 0 bytes"),
        (lambda path: path.write_bytes(b""), "it has 0 bytes"),
    ],
)
def test_a_damaged_file_is_found_at_loading(tmp_path: Path, damage, message: str) -> None:
    prepare("listops", tmp_path / "data", **SMALL)
    damage(tmp_path / "data" / "train-00001.arrow")
    with pytest.raises(DataError, match=rf"train-00001\.arrow is damaged: {message}") as caught:
        LongRangeData.load(tmp_path / "data")
    assert "prepare it anew with overwrite=True" in str(caught.value)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text(path.read_text()[:200]),
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.write_text("[]"),
        lambda path: change(path, vocab_size=9),
        lambda path: change(path, shards={}),
        lambda path: change(path, task="chess"),
        lambda path: change(path, statistics={}),
    ],
)
def test_a_damaged_meta_file_is_found_at_loading(tmp_path: Path, damage) -> None:
    prepare("listops", tmp_path / "data", **SMALL)
    damage(tmp_path / "data" / "meta.json")
    with pytest.raises(DataError, match=r"meta\.json is damaged.*overwrite=True"):
        LongRangeData.load(tmp_path / "data")


def test_a_file_with_the_rows_of_another_is_found_even_where_its_checksum_was_made_to_fit(tmp_path: Path) -> None:
    prepare("listops", tmp_path / "data", **SMALL)
    path, meta_path = tmp_path / "data" / "dev-00000.arrow", tmp_path / "data" / "meta.json"
    path.write_bytes((tmp_path / "data" / "train-00000.arrow").read_bytes())
    meta = json.loads(meta_path.read_text())
    meta["shards"]["dev"][0] |= {"bytes": path.stat().st_size, "crc32": store.checksum(path)}
    meta_path.write_text(json.dumps(meta))
    with pytest.raises(DataError, match="it has 32 rows, not 20"):
        LongRangeData.load(tmp_path / "data")


def test_a_directory_without_data_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no prepared data"):
        LongRangeData.load(tmp_path)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("chess", {}, "no task 'chess'; it is one of listops, pathfinder, image, text, retrieval"),
        ("listops", {"path_length": 6}, "leave out path_length="),
        ("listops", {"from_directory": Path("x")}, "leave out from_directory="),
        ("pathfinder", {"from_directory": Path("x")}, "leave out from_directory="),
        ("pathfinder", {"max_length": 512}, "leave out max_length="),
        ("image", {"max_length": 512}, "leave out max_length="),
        ("text", {"path_length": 14}, "leave out path_length="),
        ("listops", {"max_length": 10_000}, "lower max_length="),
        ("listops", {"max_length": 10}, "max_length=10"),
        ("listops", {"train": 0}, "train=0"),
        ("pathfinder", {"path_length": 7}, "path_length=7"),
        ("listops", {"colour": 1}, "colour"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, task: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(task, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_the_command_line_may_give_numbers_as_text() -> None:
    settings = PrepareConfig(path_length="9", seed="3").settings("pathfinder")  # type: ignore[arg-type]
    assert (settings.path_length, settings.seed, settings.max_length) == (9, 3, 1024)
    assert PrepareConfig().settings("listops").counts == {"train": 96_000, "dev": 2_000, "test": 2_000}
