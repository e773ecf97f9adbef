"""A directory written before `per_layer_config`: lists of widths in `config.json`, its own older modelling file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM
from typer.testing import CliRunner

import secateur
from secateur.attention import AttentionProfile, apply, remove
from secateur.cli.main import app
from secateur.models import attach_adapter, layer_widths, save

OLD = Path(__file__).parent / "old_layout"
WIDTHS = [(2, 1, 24), (4, 2, 40), (4, 2, 32)]
LAYERS = {"0": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}}


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    """What the model and its adapter said when they were written, of the last four tokens."""
    return load_file(OLD / "logits.safetensors")


def test_it_says_what_it_said(stored: dict[str, torch.Tensor]) -> None:
    model, _ = secateur.load(OLD / "model", dtype="float32")
    found = [
        (layer.num_attention_heads, layer.num_key_value_heads, layer.intermediate_size) for layer in layer_widths(model)
    ]
    assert found == WIDTHS
    with torch.no_grad():
        assert_close(model(stored["tokens"]).logits[:, -4:], stored["logits"])
        by_auto_class = AutoModelForCausalLM.from_pretrained(OLD / "model", dtype="float32")
        assert_close(by_auto_class(stored["tokens"]).logits[:, -4:], stored["logits"])
        hidden = AutoModel.from_pretrained(OLD / "model", dtype="float32")(stored["tokens"]).last_hidden_state
        assert_close(model.lm_head(hidden)[:, -4:], stored["logits"])


def test_it_is_written_anew_in_the_new_layout(stored: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model, tokenizer = secateur.load(OLD / "model")
    save(model, tokenizer, tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert not [name for name in config if name.endswith("_per_layer")]
    assert config["per_layer_config"] == {**LAYERS, "2": {"intermediate_size": 32}}
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    again, _ = secateur.load(tmp_path / "new", dtype="float32")
    with torch.no_grad():
        assert_close(again(stored["tokens"]).logits[:, -4:], stored["logits"])


def test_its_adapter_and_profile(stored: dict[str, torch.Tensor]) -> None:
    model, _ = secateur.load(OLD / "model", dtype="float32")
    apply(model, AttentionProfile.load(OLD / "profile.safetensors"))
    with torch.no_grad():
        assert model(stored["tokens"]).logits.isfinite().all()
    remove(model)
    assert not [problem for problem in secateur.diagnose(model).problems if problem.severity == "error"]
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(model, OLD / "adapter")
        assert_close(adapted(stored["tokens"]).logits[:, -4:], stored["with_adapter"])
        model, _ = secateur.load(OLD / "model", dtype="float32")
        assert_close(attach_adapter(model, OLD / "adapter")(stored["tokens"]).logits[:, -4:], stored["with_adapter"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "MODEL", "--data", "TEXT", "--seqlen", "16", "--no-speed"),
        ("plan", "MODEL", "--devices", "cpu"),
        ("merge", "MODEL", "--adapter", OLD / "adapter", "-o", "OUT"),
        ("sparsify", "MODEL", "-o", "OUT", "--method", "magnitude"),
        ("prune", "MODEL", "-o", "OUT", "--plan", "PLAN", "--calibration", "TEXT", "--samples", "1", "--seqlen", "16"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_read_it(arguments: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"layers": [{"layer": 1, "intermediate_size": 16}]}')
    (tmp_path / "text.txt").write_text("The sea is wide and the land is far. " * 40)
    stands_for = {"MODEL": OLD / "model", "OUT": tmp_path / "out", "TEXT": tmp_path / "text.txt"}
    stands_for["PLAN"] = tmp_path / "plan.json"
    command = [str(stands_for.get(str(argument), argument)) for argument in arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_its_own_older_modelling_file_still_runs(stored: dict[str, torch.Tensor], tmp_path: Path) -> None:
    shutil.copytree(OLD / "model", tmp_path / "model")
    script = f"""
import sys; sys.modules["secateur"] = None
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM
stored = load_file({str(OLD / "logits.safetensors")!r})
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True, dtype="float32")
assert_close(model(stored["tokens"]).logits[:, -4:], stored["logits"])
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
