"""What a result may replace: what secateur wrote there, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from secateur.errors import OutputError
from secateur.files import (
    claimed,
    directories,
    new_directory,
    partial_of,
    require_free,
    require_writable,
    working_directory,
    write_bytes,
)

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
sys.argv[0] = "secateur"  # which does not import PyTorch at once
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


@pytest.mark.parametrize("kind", ["new", "old"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_link_where_a_result_is_filled_is_not_followed(tmp_path: Path, kind: str, whole: bool) -> None:
    victim = tmp_path / "victim"
    if whole:
        victim.mkdir()
        (victim / "thesis.txt").write_text("mine")
    else:
        victim.write_text("mine")
    (tmp_path / f".out.secateur-{kind}").symlink_to(victim)
    with pytest.raises(OutputError, match=r"not secateur's|already holds something"):
        result(tmp_path / "out")
    assert (victim / "thesis.txt" if whole else victim).read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_figures_are_not_written_through_a_link_beside_them(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / ".figures.json.secateur-new").symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(OutputError, match="could not be written"):
        write_bytes(tmp_path / "figures.json", b"{}")
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_bytes(tmp_path / "link.json", b"{}")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "real.json").read_bytes() == b"{}"


def test_a_file_that_was_changed_is_the_users(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result(out, "x" * 3_000_000)
    result(out, "y" * 3_000_000, overwrite=True)
    (out / "model.txt").write_text("z" * 3_000_000)
    with pytest.raises(OutputError, match=r"holds model\.txt, which secateur did not write, or not as it is"):
        result(out, "new", overwrite=True)
    assert (out / "model.txt").read_text()[0] == "z"


@pytest.mark.parametrize(
    "names", [["*"], {"*": None}, {"../out/*": None}, {"/tmp/*": None}, {"?": None}, {"a/../*": None}]
)
def test_a_mark_that_lists_too_much_is_none(tmp_path: Path, names: object) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("mine")
    (tmp_path / "mine" / ".secateur.json").write_text(json.dumps({"written by": "secateur", "files": names}))
    with pytest.raises(OutputError, match="was not written by secateur"):
        result(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "a").read_text() == "mine"


def test_a_copied_mark_makes_nothing_secateurs(tmp_path: Path) -> None:
    result(tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".secateur.json").write_bytes((tmp_path / "out" / ".secateur.json").read_bytes())
    (tmp_path / "mine" / "model.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds model\.txt"):
        result(tmp_path / "mine", "new", overwrite=True)
    assert (tmp_path / "mine" / "model.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 300, "File name too long"),
        ("x\udcff", "not named in UTF-8"),
        ("/dev/out", "no ordinary"),
        ("loop", "link"),
    ],
)
def test_names_that_cannot_be_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=message):
        require_free(name, overwrite=True)
    assert require_free("~nosuchuser/out") == Path("~nosuchuser/out")


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_figures_never_replace_a_device(name: str) -> None:
    with pytest.raises(OutputError, match="no ordinary file"):
        require_writable(Path(name))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_memory_that_is_mounted_as_a_directory_is_a_place_like_any() -> None:
    assert require_free("/dev/shm/secateur-is-not-there") == Path("/dev/shm/secateur-is-not-there")


def test_figures_stay_out_of_results(tmp_path: Path) -> None:
    result(tmp_path / "out")
    for name in ("figures.json", ".secateur.json", "more/figures.json"):
        with pytest.raises(OutputError, match="lies in a result of secateur's"):
            require_writable(tmp_path / "out" / name)
    with pytest.raises(OutputError, match="lies in a result of secateur's"):
        require_writable(tmp_path / "new" / "figures.json", output=tmp_path / "new")
    with pytest.raises(OutputError, match="is where the result goes"):
        require_writable(tmp_path / "new", output=tmp_path / "new")
