"""Exit status 2 for what is wrong on its face, 1 for what fails at work; shares as 0.2 and 20%."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from secateur.cli.main import app
from secateur.errors import InputError
from secateur.models import configured
from secateur.pruning import PruneConfig
from secateur.recovery import RecoverConfig
from secateur.runs.recipe import load_recipe
from secateur.sparsity import SparsifyConfig


def status_of(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("prune none --ratio 20", "--ratio 20: input should be less than 1; 20 percent are 0.2 or 20%"),
        ("prune none --ratio 120%", "--ratio 1.2: input should be less than 1"),
        ("prune none --ratio 20%%", "--ratio 20%%: input should be a valid number"),
        ("prune none --min-rate 0.6 --max-rate 50%", "--min-rate 0.6 is larger than --max-rate 0.5"),
        ("prune none --layers 5:3", "names no layer; END is not included"),
        ("prune none --drop heads=3", "--drop has 'heads'"),
        ("prune none --drop layers=5-3", "--drop names 5-3"),
        ("prune none --even --freeze 3", "--even makes all layers equal"),
        ("search none --drop mlp", "--drop cannot read 'mlp'"),
        ("sparsify none --sparsity 0.5 --pattern 2:4", "not both"),
        ("recover none --method full --merge", "merge is for method lora"),
        ("recover none --method masked --load-in-8bit", "load_in_8bit is for method lora"),
        ("recover none --fsdp --load-in-8bit", "fsdp cannot spread weights in 8 bits"),
        ("attention tune none --json x --plot x", "must be different files"),
        ("export none --format gguf -o model.bin", "does not end in .gguf"),
    ],
)
def test_wrong_on_its_face_is_status_2(command: str, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = command.split()
    status, said = status_of(*words, *(() if "-o" in words else ("-o", tmp_path / "out")))
    assert (status, message in " ".join(said.split())) == (2, True), said


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"prune": {"ratio": 20}}, "less than 1, not 20; 20 percent are 0.2 or 20%"),
        ({"prune": {"ratoi": 0.2}}, "did you mean ratio?"),
        ({"recover": {"method": "full", "merge": True}}, "merge is for method lora"),
    ],
)
def test_a_recipe_with_a_wrong_value_is_status_2(section: dict[str, object], message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"model": "none", **section}))
    status, said = status_of("run", recipe, "-o", tmp_path / "out")
    assert (status, message in " ".join(said.split())) == (2, True), said


def test_what_fails_at_work_is_status_1(tmp_path: Path) -> None:
    assert status_of("prune", tmp_path / "none", "-o", tmp_path / "out")[0] == 1
    assert status_of("run", tmp_path / "none.yaml")[0] == 1


def test_a_share_is_a_number_or_percent(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: m\nprune: {ratio: 20%, max_rate: 60 %}\nrecover: {val_size: 5%, lora_dropout: 0.1%}\n")
    read = load_recipe(recipe)
    assert (read.prune.ratio, read.prune.max_rate) == (0.2, 0.6)
    assert (read.recover.val_size, read.recover.lora_dropout) == (0.05, 0.001)
    assert configured(PruneConfig, None, {"ratio": "20%", "attention_share": "29%"}).attention_share == 0.29
    assert configured(SparsifyConfig, None, {"sparsity": "50%", "fisher_range": "7%"}).fisher_range == 0.07
    assert configured(RecoverConfig, None, {"val_size": "40"}).val_size == 40
    with pytest.raises(InputError, match=r"20 percent are 0\.2 or 20%"):
        configured(PruneConfig, None, {"ratio": 20})
