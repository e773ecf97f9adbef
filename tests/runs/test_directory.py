"""The run directory: done stages are not done again, interrupted ones go on, changed ones are redone."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from secateur.errors import OutputError
from secateur.files import new_directory
from secateur.files.result_files import STAGES
from secateur.runs.directory import Run, Stage

OWN = ("a/", "b/", "c/")


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
            with new_directory(directory, overwrite=True) as staging:
                (staging / "0.txt").write_text(name)
                if self.fails == name:
                    raise KeyboardInterrupt

        return Stage(name, self.settings[name], work, self.inputs.get(name, ()), needs)

    def run(self, stages: int = 3, shared: Sequence[Path] = (), overwrite: bool = False) -> list[str]:
        """The stages that worked this time."""
        self.worked = []
        with Run.open(self.path, OWN, overwrite=overwrite) as run:
            run.execute(self.stages()[:stages], shared)
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
    assert (bench.path / "b" / "0.txt").is_file()


def test_what_an_interrupted_try_left_is_deleted(bench: Bench) -> None:
    bench.fails = "b"
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    bench.fails, bench.settings["b"] = "", {"y": 2}
    assert bench.run() == ["b", "c"]
    assert not [path for path in bench.path.iterdir() if "secateur-" in path.name]


def test_a_deleted_result_is_made_again(bench: Bench) -> None:
    bench.run()
    shutil.rmtree(bench.path / "c")
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
    assert other.run(shared=[bench.path]) == ["b", "c"]
    assert (other.path / "a" / "0.txt").read_text() == "a"
    assert other.run() == []
    (bench.path / "a" / "0.txt").unlink()
    third = Bench(tmp_path / "third")
    assert third.run(shared=[bench.path, other.path]) == [], "a comes from the other run, whose files are whole"


def test_results_no_longer_asked_for_are_deleted(bench: Bench) -> None:
    bench.run()
    bench.run(stages=2)
    assert not (bench.path / "c").exists()
    assert set(json.loads((bench.path / STAGES).read_text())) == {"a", "b"}


def test_seconds_of_every_finished_stage(bench: Bench) -> None:
    bench.run()
    with Run.open(bench.path, OWN) as run:
        seconds = run.seconds()
    assert list(seconds) == ["a", "b", "c"]
    assert all(value >= 0 for value in seconds.values())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_is_no_run_is_refused_and_kept(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a run"), Run.open(tmp_path, OWN, overwrite=overwrite):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_overwrite_starts_afresh(bench: Bench) -> None:
    bench.run()
    assert bench.run(overwrite=True) == ["a", "b", "c"]
    assert bench.run() == []


def test_damaged_state_is_reported(bench: Bench) -> None:
    bench.run()
    (bench.path / STAGES).write_text("{")
    with pytest.raises(OutputError, match="damaged; pass overwrite=True"):
        bench.run()
    assert bench.run(overwrite=True) == ["a", "b", "c"]


def test_a_state_that_names_a_path_deletes_nothing(bench: Bench) -> None:
    bench.run()
    victim = bench.path.parent / "victim"
    victim.mkdir()
    (bench.path / STAGES).write_text(json.dumps({"../victim": {"fingerprint": "x", "seconds": 1.0}}))
    with pytest.raises(OutputError, match="damaged; pass overwrite=True"):
        bench.run()
    assert victim.is_dir()


def test_a_stage_that_fails_leaves_its_earlier_result(bench: Bench) -> None:
    bench.run()
    before = dict(bench.settings)
    bench.settings["b"], bench.fails = {"y": 2}, "b"
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert (bench.path / "b" / "0.txt").is_file()
    bench.settings, bench.fails = before, ""
    assert bench.run() == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_model_of_the_run_itself_is_no_input(bench: Bench, overwrite: bool) -> None:
    bench.run()
    opened = Run.open(bench.path, OWN, overwrite=overwrite, inputs=["gpt2", str(bench.path / "b")])
    with pytest.raises(OutputError, match="which is still needed"), opened:
        pass
    assert (bench.path / "b").is_dir()


def test_overwriting_keeps_the_old_run_until_the_new_one_is_finished(bench: Bench) -> None:
    bench.run()
    before = (bench.path / STAGES).read_bytes()
    bench.fails = "c"
    with pytest.raises(KeyboardInterrupt):
        bench.run(overwrite=True)
    assert (bench.path / STAGES).read_bytes() == before and (bench.path / "c" / "0.txt").is_file()
    bench.fails = ""
    assert bench.run(overwrite=True) == ["c"], "the new run goes on where it was stopped"
    assert [path.name for path in bench.path.parent.iterdir()] == ["run"]


def test_overwriting_never_deletes_what_a_reader_put_there(bench: Bench) -> None:
    bench.run()
    for place in (bench.path / "notes.txt", bench.path / "b" / "notes.txt"):
        place.write_text("mine")
        with pytest.raises(OutputError, match=r"holds .*notes\.txt, which secateur did not write"):
            bench.run(overwrite=True)
        assert place.read_text() == "mine"
        place.unlink()


def test_stages_that_a_recipe_lacks_stay_where_they_hold_more(bench: Bench) -> None:
    bench.run()
    (bench.path / "c" / "notes.txt").write_text("mine")
    bench.run(stages=2)
    assert (bench.path / "c" / "notes.txt").read_text() == "mine"


def test_an_empty_state_file_makes_no_run(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / STAGES).write_text("{}")
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not a run"), Run.open(tmp_path / "mine", OWN, overwrite=overwrite):
            pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_a_run_whose_directory_goes_away_says_so_and_begins_anew(
    bench: Bench,
) -> None:
    stages = bench.stages()

    def removed(directory: Path) -> None:
        shutil.rmtree(bench.path)
        stages[1].work(directory)

    broken = [stages[0], Stage("b", stages[1].settings, removed, (), ("a",))]
    with pytest.raises(OutputError, match="could not be written"), Run.open(bench.path, OWN) as run:
        run.execute(broken)
    assert bench.run() == ["a", "b", "c"]
