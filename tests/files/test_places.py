"""What a result may replace: what secateur wrote there, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from secateur.errors import OutputError
from secateur.files import claimed, directories, new_directory, partial_of, require_free, working_directory, write_bytes

OWN = ["state.json", "stage/"]


def result(directory: Path, text: str = "old", overwrite: bool = False) -> None:
    with new_directory(directory, overwrite) as staging:
        (staging / "model.txt").write_text(text)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home" / "ann"
    (place / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place / "work")
    return place


@pytest.mark.parametrize("name", ["~", "~/", "..", ".", "", "~/..", "/", "~/work", "../../.."])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_home_and_the_current_directory_are_no_output(home: Path, name: str, overwrite: bool) -> None:
    (home / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="name a directory below it"):
        require_free(name, overwrite)
    with (
        pytest.raises(OutputError, match="name a directory below it"),
        working_directory(name, OWN, "a run", overwrite=overwrite),
    ):
        pass
    assert (home / "thesis.txt").read_text() == "mine"


def test_overwriting_needs_the_mark(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"was not written by secateur \(it has no \.secateur\.json\)"):
        result(tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["notes.txt", "model.txt.bak", "more/notes.txt", "[model].txt", "empty/"])
def test_overwriting_names_what_is_not_secateurs(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    result(out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).mkdir() if name.endswith("/") else (out / name).write_text("mine")
    with pytest.raises(OutputError, match=r"holds .*, which secateur did not write"):
        result(out, "new", overwrite=True)
    assert (out / name).exists() and (out / "model.txt").read_text() == "old"


def test_a_file_that_comes_while_the_work_is_done_is_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result(out)
    with (
        pytest.raises(OutputError, match=r"holds notes\.txt"),
        new_directory(out, overwrite=True) as staging,
    ):
        (staging / "model.txt").write_text("new")
        (out / "notes.txt").write_text("mine")
    assert (out / "notes.txt").read_text() == "mine"


def test_a_link_is_followed_to_what_secateur_wrote(tmp_path: Path) -> None:
    result(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    result(tmp_path / "link", "new", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "model.txt").read_text() == "new"


def test_a_copy_of_a_result_is_a_result(tmp_path: Path) -> None:
    result(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "moved")
    result(tmp_path / "moved", "new", overwrite=True)
    assert (tmp_path / "moved" / "model.txt").read_text() == "new"


def test_a_foreign_partial_is_in_the_way(tmp_path: Path) -> None:
    with working_directory(tmp_path / "run", OWN, "a run") as place:
        write_bytes(place / "state.json", b"1")
    partial_of(tmp_path / "run").mkdir()
    (partial_of(tmp_path / "run") / "settings.json").write_text("{}")
    with (
        pytest.raises(OutputError, match="not a run"),
        working_directory(tmp_path / "run", OWN, "a run", overwrite=True),
    ):
        pass
    assert (partial_of(tmp_path / "run") / "settings.json").exists()


HOLD = """
import sys, time
from pathlib import Path
from secateur.files import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_at_once_and_one_that_was_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="is being written by another secateur"):
            result(out)
        other.kill()
    result(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_claim_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with claimed(tmp_path / "a" / "b" / "out"), claimed(tmp_path / "a" / "b" / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_a_killed_one_had_moved_away_comes_back(tmp_path: Path) -> None:
    result(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.secateur-old")
    (tmp_path / ".out.secateur-new").mkdir()
    (tmp_path / ".out.secateur-new" / "model.txt").write_text("ha")
    with pytest.raises(OutputError, match="already holds something"), claimed(tmp_path / "out"):
        require_free(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.txt").read_text() == "old"


def test_where_two_directories_cannot_change_names_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    result(out)
    monkeypatch.setattr(directories, "_exchange", lambda *_: False)
    result(out, "new", overwrite=True)
    assert (out / "model.txt").read_text() == "new"
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == ".out.secateur-new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        with pytest.raises(OutputError, match="Input/output error"):
            result(out, "newer", overwrite=True)
    assert (out / "model.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
