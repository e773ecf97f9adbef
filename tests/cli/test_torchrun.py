"""Commands under torchrun: a whole run, one line for an error, no process that waits for one that has failed."""

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import secateur
from secateur import distributed
from secateur.cli import output
from secateur.cli.main import COMMANDS
from secateur.errors import InputError
from secateur.evaluation import perplexity
from secateur.models import save
from secateur.quantization import QuantizeConfig
from secateur.runs.recipe import Recipe, parse_recipe
from secateur.runs.stages import run_recipe
from secateur.runs.steps import quantize_model

Torchrun = Callable[..., Any]
Together = Callable[..., Any]

ROUND = {"windows": 7, "seqlen": 48, "batch_size": 2, "dtype": "float32"}
RECIPE = """\
model: {model}
dtype: float32
prune: {{ratio: 0.2, calibration: {text}, samples: 7, seqlen: 48, batch_size: 2}}
sparsify: {{method: wanda, sparsity: 0.3, calibration: {text}, samples: 7, seqlen: 48, batch_size: 2}}
recover: {{data: {text}, seqlen: 48, batch_size: 3, val_size: 3, samples: 20, teacher: original}}
evaluate: {{data: [{text}], seqlen: 48, windows: 5, prompt_tokens: 8, new_tokens: 2, repeats: 1}}
samples: {{prompts: [one], max_new_tokens: 2}}
"""


@pytest.fixture
def model(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerBase,
    private_cache: Path,
    tmp_path: Path,
) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(map(str, range(400))), encoding="utf-8")
    return save(tiny_model(), tiny_tokenizer, tmp_path / "model")


def errors(text: str) -> list[str]:
    """What secateur's own lines on standard error say."""
    return re.findall(r"^(?:\[rank\d\]: )?Error: (.*)$", text, re.MULTILINE)


@pytest.mark.slow
def test_a_recipe_in_two_processes(model: Path, tmp_path: Path, torchrun: Torchrun, two_processes: Together) -> None:
    text = RECIPE.format(model=model, text=tmp_path / "text.txt")
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    recipe = parse_recipe(text)
    assert isinstance(recipe, Recipe)
    expected = run_recipe(recipe, text, tmp_path / "one", command_line="one")
    arguments = ["-m", "secateur", "run", tmp_path / "recipe.yaml", "-o", tmp_path / "two"]
    done = torchrun(*arguments, "--json", tmp_path / "two.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1
    found = json.loads((tmp_path / "two.json").read_text(encoding="utf-8"))
    for one, two in zip(expected["models"], found["models"], strict=True):
        assert two["perplexity"] == pytest.approx(one["perplexity"], rel=1e-4)
        assert {name: two[name] for name in ("parameters", "windows", "samples")} == {
            name: one[name] for name in ("parameters", "windows", "samples")
        }
        assert two["decode_tokens_per_second"] > 0
    plans = [json.loads((tmp_path / side / "pruning_plan.json").read_text(encoding="utf-8")) for side in ("one", "two")]
    assert plans[0]["layers"] == plans[1]["layers"]
    for stage in ("prune", "sparsify", "recover"):
        sides = [load_file(tmp_path / side / stage / "model.safetensors") for side in ("one", "two")]
        for weight in sides[0]:
            assert float((sides[1][weight] - sides[0][weight]).norm() / sides[0][weight].norm()) < 1e-3, (stage, weight)
    lines = (tmp_path / "two" / "run.log").read_text(encoding="utf-8").splitlines()
    logged = [line for line in lines if "secateur.runs." in line]  # one process of the two writes the log
    assert len(logged) == len({line.split(" ", 2)[2] for line in logged})
    assert [process.returncode for process in two_processes(*arguments)] == [0, 0]
    assert "done before" in (tmp_path / "two" / "run.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_error_is_one_line(model: Path, tmp_path: Path, torchrun: Torchrun) -> None:
    done = torchrun("-m", "secateur", "prune", model, "--calibration", "none.txt", "-o", tmp_path / "out")
    assert done.returncode != 0
    (line,) = errors(done.stderr)
    assert "none.txt does not exist" in line
    assert "(exitcode: 1)" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (("prune", "{model}", "--calibration", "none.txt", "-o", "{out}"), "none.txt does not exist", 1),
        (("evaluate", "{model}", "--unknown"), "No such option: --unknown", 2),
    ],
)
def test_an_error_is_said_once(
    model: Path, tmp_path: Path, two_processes: Together, arguments: tuple[str, ...], message: str, status: int
) -> None:
    filled = [part.format(model=model, out=tmp_path / "out") for part in arguments]
    done = two_processes("-m", "secateur", *filled)
    assert {process.returncode for process in done} == {status}
    (line,) = errors("".join(process.stderr for process in done))
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_command_for_one_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "launched_together", lambda: True)
    monkeypatch.setattr(distributed, "several_processes", nullcontext)
    with pytest.raises(InputError, match="merge works in one process"), output.in_process_group("merge", False):
        pass
    assert COMMANDS["merge"].together is False


FAILING = """\
import os
from secateur.cli.main import main
from secateur.calibration import moments

def fails(self):
    raise KeyError("only here")

if os.environ["RANK"] == "1":
    moments.Moments.add_other_processes = moments.Gram.add_other_processes = fails
main()
"""


@pytest.mark.slow
def test_one_process_that_fails_ends_the_others(model: Path, tmp_path: Path, torchrun: Torchrun) -> None:
    (tmp_path / "failing.py").write_text(FAILING, encoding="utf-8")
    arguments = ["--calibration", tmp_path / "text.txt", "--samples", 4, "--seqlen", 32, "-o", tmp_path / "out"]
    done = torchrun(tmp_path / "failing.py", "prune", model, *arguments, timeout=120)
    assert done.returncode != 0
    assert errors(done.stderr) == ["unexpected KeyError: 'only here' (--debug shows where)"]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_rounding_in_two_processes(model: Path, tmp_path: Path, two_processes: Together) -> None:
    """Sums over windows come in another order: the first weights are the same, later ones as good."""
    text = str(tmp_path / "text.txt")
    one = quantize_model(str(model), tmp_path / "one", QuantizeConfig(data=text, **ROUND), command_line="one")
    given = [word for name, value in ROUND.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = two_processes("-m", "secateur", "quantize", model, "-o", tmp_path / "two", "--data", text, *given)
    assert [process.returncode for process in done] == [0, 0], done[0].stderr
    found = json.loads((tmp_path / "two" / "quantization.json").read_text(encoding="utf-8"))
    same = ("bytes_before", "bytes_after", "calibration_windows")
    assert {name: found[name] for name in same} == {name: getattr(one, name) for name in same}
    assert found["matrices"] == json.loads(json.dumps(one.to_dict()["matrices"]))
    alone, together = (secateur.load(tmp_path / side, dtype="float32")[0] for side in ("one", "two"))
    for name in ("q_proj", "v_proj"):
        ours, theirs = (
            side.model.layers[0].self_attn.get_submodule(name).weight.detach() for side in (alone, together)
        )
        assert float((theirs - ours).norm() / ours.norm()) < 1e-3
    tokens = torch.arange(300).remainder(250).view(4, 75)
    assert perplexity(together, tokens) == pytest.approx(perplexity(alone, tokens), rel=0.1)
