"""The run directory: done stages are not done again, interrupted ones go on, changed ones are redone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from secateur.errors import OutputError
from secateur.runs import STATE, Run, Stage


class Bench:
    """Three stages, a ← b ← c, that write down when they work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.worked: list[str] = []
        self.settings = {"a": {"x": 1}, "b": {"y": 1}, "c": {"z": 1}}
        self.inputs: dict[str, tuple[str, ...]] = {}
        self.fails = ""

    def stages(self) -> list[Stage]:
        return [self.stage("a"), self.stage("b", "a"), self.stage("c", "b")]

    def stage(self, name: str, *needs: str) -> Stage:
        def work(directory: Path) -> None:
            self.worked.append(name)
            directory.mkdir(exist_ok=True)
            (directory / f"{len(list(directory.iterdir()))}.txt").write_text(name)
            if self.fails == name:
                raise KeyboardInterrupt

        return Stage(name, self.settings[name], work, self.inputs.get(name, ()), needs)

    def run(self) -> list[str]:
        """The stages that worked this time."""
        self.worked = []
        Run.open(self.path).execute(self.stages())
        return self.worked


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "run")


def test_done_and_unchanged_is_not_done_again(bench: Bench) -> None:
    assert bench.run() == ["a", "b", "c"]
    assert bench.run() == []


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("cut sho")])
def test_a_stage_whose_files_are_gone_or_cut_short_is_done_again(
    bench: Bench, damage: Callable[[Path], object]
) -> None:
    bench.run()
    damage(bench.path / "b" / "0.txt")
    assert bench.run() == ["b", "c"]
    (bench.path / "b" / "notes.txt").write_text("a reader's own")
    assert bench.run() == []


def test_a_killed_run_continues(bench: Bench) -> None:
    bench.fails = "b"
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    bench.fails = ""
    assert bench.run() == ["b", "c"]
    assert bench.run() == []


def test_a_change_redoes_the_stage_and_what_needs_it(bench: Bench) -> None:
    bench.run()
    bench.settings["b"] = {"y": 2}
    assert bench.run() == ["b", "c"]
    assert len(list((bench.path / "b").iterdir())) == 1, "the old result is gone"


def test_what_an_interrupted_try_left_is_deleted(bench: Bench) -> None:
    bench.fails = "b"
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    bench.fails, bench.settings["b"] = "", {"y": 2}
    assert bench.run() == ["b", "c"]
    assert len(list((bench.path / "b").iterdir())) == 1


def test_a_deleted_result_is_made_again(bench: Bench) -> None:
    bench.run()
    next((bench.path / "c").iterdir()).unlink()
    (bench.path / "c").rmdir()
    assert bench.run() == ["c"]


def test_a_changed_input_file_redoes_the_stage(bench: Bench, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one")
    bench.inputs = {"b": (f"{text}[:80%]",)}
    bench.run()
    assert bench.run() == []
    text.write_text("another")
    assert bench.run() == ["b", "c"]


def test_stages_that_are_the_same_in_another_run_are_copied(bench: Bench, tmp_path: Path) -> None:
    bench.run()
    other = Bench(tmp_path / "other")
    other.settings["b"] = {"y": 2}
    Run.open(other.path).execute(other.stages(), shared=[bench.path])
    assert other.worked == ["b", "c"]
    assert (other.path / "a" / "0.txt").read_text() == "a"
    assert other.run() == []
    (bench.path / "a" / "0.txt").unlink()
    third = Bench(tmp_path / "third")
    Run.open(third.path).execute(third.stages(), shared=[bench.path, other.path])
    assert third.worked == [], "a comes from the other run, whose files are whole"


def test_results_no_longer_asked_for_are_deleted(bench: Bench) -> None:
    bench.run()
    Run.open(bench.path).execute(bench.stages()[:2])
    assert not (bench.path / "c").exists()
    assert set(json.loads((bench.path / STATE).read_text())) == {"a", "b"}


def test_seconds_of_every_finished_stage(bench: Bench) -> None:
    bench.run()
    seconds = Run.open(bench.path).seconds()
    assert list(seconds) == ["a", "b", "c"]
    assert all(value >= 0 for value in seconds.values())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_is_no_run_is_refused_and_kept(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a run"):
        Run.open(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_overwrite_starts_afresh(bench: Bench) -> None:
    bench.run()
    assert Run.open(bench.path, overwrite=True).progress == {}
    assert bench.run() == ["a", "b", "c"]


def test_damaged_state_is_reported(bench: Bench) -> None:
    bench.run()
    (bench.path / STATE).write_text("{")
    with pytest.raises(OutputError, match="damaged; pass --overwrite"):
        Run.open(bench.path)
    assert Run.open(bench.path, overwrite=True).progress == {}


def test_a_state_that_names_a_path_deletes_nothing(bench: Bench) -> None:
    bench.run()
    victim = bench.path.parent / "victim"
    victim.mkdir()
    (bench.path / STATE).write_text(json.dumps({"../victim": {"fingerprint": "x", "seconds": 1.0}}))
    with pytest.raises(OutputError, match="damaged; pass --overwrite"):
        Run.open(bench.path)
    assert victim.is_dir()


def test_a_stage_that_fails_leaves_its_earlier_result(bench: Bench) -> None:
    bench.run()
    before = dict(bench.settings)
    bench.settings["b"], bench.fails = {"y": 2}, "b"
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert [path.name for path in (bench.path / "b").iterdir()] == ["0.txt"]
    bench.settings, bench.fails = before, ""
    assert bench.run() == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_model_of_the_run_itself_is_no_input(bench: Bench, overwrite: bool) -> None:
    bench.run()
    with pytest.raises(OutputError, match="which is still needed"):
        Run.open(bench.path, overwrite, inputs=["gpt2", str(bench.path / "b")])
    assert (bench.path / "b").is_dir()
