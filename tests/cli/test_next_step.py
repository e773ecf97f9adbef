"""The line that says what to do after each command."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from secateur.cli.group import Group
from secateur.cli.main import COMMANDS, app
from secateur.cli.next_step import ROAD, next_command
from secateur.cli.output import announce

LOADING = "secateur prune: loading …\n"
WORDS = {
    words
    for name, command in COMMANDS.items()
    for words in ([f"{name} {each}" for each in command.commands] if isinstance(command, Group) else [name])
}


def following(command: str, adapter: Any = None, **values: Any) -> str | None:
    settings = {"data": "pydocs"} | {
        name: values.pop(name) for name in ("data", "teacher", "ratio", "profile", "text_column") if name in values
    }
    return next_command(command, {"config": SimpleNamespace(adapter=adapter, **settings), **values})


def test_no_command_is_forgotten() -> None:
    assert ROAD.keys() == WORDS


def test_load_measure_cut_recover_measure_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cut, trained = Path("out/pruned"), Path("out/recovered")
    assert following("diagnose", model="m") == "secateur evaluate m"
    assert following("evaluate", models=["m"]) == "secateur prune m -o out/pruned"
    text = "secateur recover out/pruned -o out/recovered --data a.txt --teacher m"
    assert following("prune", model="m", output=cut, data="a.txt") == text
    rows = following("sparsify", model="m", output=cut, data="a.jsonl", text_column="body")
    assert rows == text.replace("a.txt", "a.jsonl --text-column body")
    cut.mkdir(parents=True)
    (cut / "pruning_plan.json").touch()
    assert following("evaluate", models=["m", str(cut)]) == text.replace(" --data a.txt", "")
    trained.mkdir()
    assert following("recover", model="out/pruned", output=trained, teacher="m") == "secateur evaluate m out/recovered"
    (trained / "recovery.json").touch()
    assert following("evaluate", models=["m", str(trained)]) == "secateur export out/recovered -o out/recovered.gguf"
    assert following("export", output=Path("out/a b.gguf")) == "secateur chat 'out/a b.gguf'"


@pytest.mark.parametrize(
    ("data", "unseen"),
    [
        ("pydocs", ""),
        ("notes.txt", ""),
        ("notes.txt[:80%]", " --data 'notes.txt[80%:]'"),
        ("notes.txt[20%:]", " --data 'notes.txt[:20%]'"),
        ("notes.txt[20%:80%]", " --data 'notes.txt[80%:]'"),
        ("a.jsonl[:80%]:0.7,b.txt:0.3", " --data 'a.jsonl[80%:]'"),
        ("a.jsonl[:80%]:7,b.txt[:50%]:3", " --data 'a.jsonl[80%:],b.txt[50%:]'"),
        ("notes.txt[:]", ""),
    ],
)
def test_what_was_not_trained_on_is_what_is_measured_on(data: str, unseen: str) -> None:
    assert (
        following("recover", model="m", output=Path("out"), teacher=None, data=data)
        == f"secateur evaluate m out{unseen}"
    )


def test_after_a_dry_run_comes_the_push_itself() -> None:
    given = {"model": "out/m", "repository": "me/m", "private": True, "revision": None, "message": "a text"}
    assert following("push", **given, dry_run=True) == "secateur push out/m me/m --private --message 'a text'"
    assert following("push", **given, dry_run=False) == "secateur chat me/m"


def test_an_adapter_is_measured_beside_its_model_and_merged(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").touch()
    (tmp_path / "merged").mkdir()
    measured = following("recover", model="cut", output=adapter, teacher=None)
    assert measured == f"secateur evaluate cut --adapter {adapter}"
    merged = following("evaluate", adapter=str(adapter), models=["cut"])
    assert merged == f"secateur merge cut --adapter {adapter} -o {tmp_path}/merged-2"
    rounded = tmp_path / "rounded"
    rounded.mkdir()
    config = {"quantization_config": {"quant_method": "compressed-tensors"}}
    (rounded / "config.json").write_text(json.dumps(config), encoding="utf-8")
    merged = following("evaluate", adapter=str(adapter), models=[str(rounded)])
    assert merged == f"secateur merge {rounded} --adapter {adapter} -o {tmp_path}/merged-2 --dequantize"


def test_it_is_on_standard_error_and_not_with_quiet(tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.mkdir()
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"model_type": "llama", "vocab_size": 260, "num_key_value_heads": 2, **sizes}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    arguments = ["plan", str(model), "--devices", "1xH100", "--ratio", "0.3"]
    loud, quiet = (CliRunner().invoke(app, [*arguments, *more]) for more in ([], ["--quiet"]))
    assert loud.exit_code == quiet.exit_code == 0, loud.output
    assert loud.stderr == f"next: secateur prune {model} -o out/pruned --ratio 0.3\n"
    assert quiet.stderr == "" and quiet.stdout == loud.stdout


@pytest.mark.parametrize(
    ("imported", "rank", "line"),
    [
        (False, None, "secateur prune: loading …\n"),
        (True, None, ""),
        (False, "0", "secateur prune: loading …\n"),
        (False, "1", ""),
    ],
)
def test_a_line_before_the_imports(
    imported: bool, rank: str | None, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "modules", {"torch": sys} if imported else {})
    if rank is not None:
        for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost")):
            monkeypatch.setenv(name, value)
    announce("secateur prune")
    assert capsys.readouterr().err == line
