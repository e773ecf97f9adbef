"""`secateur push` against a stub of the hub: what goes there, what stays, what is refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError
from typer.testing import CliRunner, Result

from secateur.cli.main import app
from secateur.handover import push as pushing
from secateur.handover.card import card_files
from secateur.handover.lineage import Base, Lineage, Step
from secateur.handover.push import upload_of
from secateur.models import load, save
from tiny import make_tiny_model, make_tiny_tokenizer

OTHERS = {"optimizer.pt", "out.lock", "optimizer.safetensors", "thesis.pdf"}
STAYING = {".secateur.json", "command.txt", "run.log", *OTHERS}
ANSWER: Any = SimpleNamespace(headers={}, request=None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that secateur wrote, and what else may lie in one."""
    root = tmp_path_factory.mktemp("models")
    make_tiny_model().save_pretrained(root / "tiny")
    make_tiny_tokenizer().save_pretrained(root / "tiny")
    model, tokenizer = load(root / "tiny", dtype="float32")
    files = {
        "pruning_plan.json": {
            "settings": {"calibration": str(root / "notes.txt")},
            **{"parameters_before": 10, "parameters_after": 9, "reached": 0.1, "ratio": 0.1},
        },
        "command.txt": f"secateur prune {root}/tiny\n",
        "run.log": "",
    }
    told = card_files("prune", root / "tiny", model, root / "out", "secateur prune tiny -o out")
    save(model, tokenizer, root / "out", extras={**files, **told})
    for name in OTHERS:
        (root / "out" / name).write_bytes(b"x")
    (root / "out/checkpoint-3").mkdir()
    (root / "out/checkpoint-3/model.safetensors").write_bytes(b"x")
    return root / "out"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the hub was asked for, by the name of the call."""
    asked: dict[str, Any] = {}

    def upload(self: object, *, folder_path: Path, **options: Any) -> None:
        files = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in folder_path.rglob("*.*")}
        asked["upload_folder"] = {**options, "files": files}

    def missing(self: object, *arguments: Any, **options: Any) -> None:
        asked["timeout"] = options["timeout"]
        raise RepositoryNotFoundError("none", response=ANSWER)

    monkeypatch.setattr(pushing, "get_token", lambda: "hf_token")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", missing)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    for name in ("create_repo", "create_branch"):
        monkeypatch.setattr(
            huggingface_hub.HfApi,
            name,
            lambda self, *given, _name=name, **options: asked.update({_name: (*given, options)}),
        )
    return asked


def secateur(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failed(result: Result, status: int = 1) -> str:
    assert result.exit_code == status, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


def test_what_goes_to_the_hub_and_what_stays(made: Path, hub: dict[str, Any]) -> None:
    result = secateur("push", made, "me/small", "--private", "--revision", "try", "--message", "first")
    assert result.exit_code == 0, result.output
    assert "https://huggingface.co/me/small" in result.stdout
    assert hub["create_repo"] == ("me/small", {"private": True, "exist_ok": True})
    assert hub["create_branch"] == ("me/small", {"branch": "try", "exist_ok": True})
    sent = hub["upload_folder"]
    assert (sent["repo_id"], sent["revision"], sent["commit_message"]) == ("me/small", "try", "first")
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "lineage.json"} <= sent["files"].keys()
    assert not [name for name in sent["files"] if name in STAYING or "checkpoint" in name]
    assert sent["files"]["model.safetensors"] == (made / "model.safetensors").read_bytes()
    assert 'from_pretrained("me/small")' in sent["files"]["README.md"].decode()
    assert json.loads(sent["files"]["pruning_plan.json"])["settings"] == {"calibration": "notes.txt"}
    assert hub["timeout"] <= 15


def test_a_card_of_ones_own_goes_as_it_is(made: Path, hub: dict[str, Any]) -> None:
    before = (made / "README.md").read_text()
    (made / "README.md").write_text("# Mine")
    try:
        assert secateur("push", made, "me/small").exit_code == 0
        assert hub["upload_folder"]["files"]["README.md"] == b"# Mine"
        assert hub["create_repo"][1]["private"] is None and "create_branch" not in hub
    finally:
        (made / "README.md").write_text(before)


def test_a_dry_run_asks_nobody(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "HfApi", None)
    result = secateur("push", made, "me/small", "--dry-run")
    assert result.exit_code == 0, result.output
    listed, stays = result.stdout.split("Stays here: ")
    assert " 0.0 " not in listed and "model.safetensors" in listed and "checkpoint-3/model.safetensors" in stays
    assert all(name in stays for name in STAYING)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "holds no finished model"),
        ("run", "push one of the models in it: prune"),
        ("training.partial", "is unfinished work"),
        ("truncated", "truncated or corrupted"),
        ("pickled", "as a pickle"),
        ("adapter", "adapter_model.safetensors is missing"),
        ("model.gguf", "is a file"),
        ("none", "is no directory here"),
    ],
)
def test_what_is_no_finished_model_stays(name: str, message: str, tmp_path: Path) -> None:
    place = tmp_path / name
    if name == "model.gguf":
        place.write_bytes(b"GGUF")
    elif name != "none":
        (place / "prune").mkdir(parents=True) if name == "run" else place.mkdir()
        file = {"run": "prune/config.json", "adapter": "adapter_config.json", "empty": "a.txt"}.get(name, "config.json")
        (place / file).write_text("{}")
        weights = {"truncated": "model.safetensors", "pickled": "pytorch_model.bin"}
        if name in weights:
            (place / weights[name]).write_bytes(b"xx")
    assert message in failed(secateur("push", place, "me/small", "--dry-run"))


def test_links_to_other_places_and_secrets_stay(made: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(made, model)
    for name in ("token.txt", "secrets.json", "hub_token.txt"):
        (model / name).write_text("x")
    (model / "linked.json").symlink_to("config.json")
    assert {"token.txt", "secrets.json", "hub_token.txt"} <= set(upload_of(model, "me/small").left)
    (tmp_path / "elsewhere.txt").write_text("x")
    (model / "notes.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert "notes.txt is a link to what lies elsewhere" in failed(secateur("push", model, "me/small", "--dry-run"))


def test_links_within_the_hubs_cache_are_the_models_own(made: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/1"
    shutil.copytree(made, blobs)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (snapshot / name).symlink_to(blobs / name)
    assert upload_of(snapshot, "me/small").files.keys() == {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_name_that_no_repository_has(made: Path) -> None:
    assert "give USER/small" in failed(secateur("push", made, "small"), 2)
    assert "is no name of a repository" in failed(secateur("push", made, "me/sm all"), 2)


def test_nobody_logged_in(made: Path, hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "get_token", lambda: None)
    assert "hf auth login" in failed(secateur("push", made, "me/small"))


@pytest.mark.parametrize(
    "problem",
    [
        HTTPError("Name or service not known"),
        HfHubHTTPError("403 Forbidden", response=ANSWER),
    ],
)
def test_a_hub_that_does_not_answer_is_one_line(
    problem: Exception, made: Path, hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise problem

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    line = failed(secateur("push", made, "me/small"))
    assert str(problem) in line and "was not pushed" in line


def test_an_adapter_names_its_model_by_its_hub_id(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/home/me/model"}))
    lineage = Lineage(base=Base(name="org/base", hub_id="org/base"), steps=[Step(kind="recover", command="")])
    upload = pushing.Upload(tmp_path, "me/adapter", {"adapter_config.json": 1}, [], lineage)
    with pushing.staged(upload) as folder:
        assert json.loads((folder / "adapter_config.json").read_text()) == {"base_model_name_or_path": "org/base"}
