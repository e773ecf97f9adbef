"""The commands on a tiny model: what they write and print, their exit status, and what bad input gets."""

import functools
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from json_docs import require_written
from secateur.cli.group import Group
from secateur.cli.main import COMMANDS, app

QUICK_PRUNE = ["--ratio", "0.2", "--samples", "4", "--seqlen", "32", "--device", "cpu"]
QUICK_RECOVER = ["--samples", "16", "--seqlen", "32", "--val-size", "0", "--device", "cpu"]
QUICK_SPEED = ["--prompt-tokens", "8", "--new-tokens", "2", "--repeats", "1"]
QUICK_EVALUATE = ["--windows", "4", "--seqlen", "32", "--device", "cpu", *QUICK_SPEED]


def secateur(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, words)
    if result.exit_code == 0 and "--help" not in words:
        require_written(words)
    return result


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def failed(result: Result, status: int = 1) -> str:
    """The one line on standard error."""
    assert result.exit_code == status, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in result.output
    return line


@pytest.fixture
def tiny(tiny_model, tiny_tokenizer, tmp_path: Path, private_cache: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_the_list_of_commands() -> None:
    text = done(secateur("--help")).output
    assert max(map(len, text.splitlines())) <= 80
    for command in COMMANDS.values():
        assert f"  {command.name}" in text
        assert command.summary in text, "the short help must fit on its line"


LEAVES = {
    words: leaf
    for name, command in COMMANDS.items()
    for words, leaf in (
        {f"{name} {each}": leaf for each, leaf in command.commands.items()}
        if isinstance(command, Group)
        else {name: command}
    ).items()
}


@pytest.mark.parametrize("words", LEAVES)
def test_help_fits_the_terminal_and_panels_name_real_fields(words: str) -> None:
    command = LEAVES[words]
    text = done(secateur(*words.split(), "--help")).output
    assert max(map(len, text.splitlines())) <= 80
    assert "{" not in text
    options = {parameter.name for parameter in command.build().params}
    listed = [field for fields in command.panels.values() for field in fields]
    assert set(listed) <= options
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("words", LEAVES)
def test_the_example_of_every_help_is_a_command_line(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, (*group, name), called = LEAVES[words], words.split(), []
    assert command.example.startswith(f"secateur {words} ")
    text = done(secateur(*words.split(), "--help")).output
    shown = text.partition("Example:\n")[2].partition("\n\n")[0]
    assert shlex.split(shown.replace("\\\n", "")) == shlex.split(command.example)
    given = re.findall(r" (--?[a-z][\w-]*)", command.example)
    main = text.partition("Options:\n")[2].partition("\n\n")[0]
    assert [option for option in given if not re.search(rf"^  {option}[ ,]", main, re.MULTILINE)] == []
    monkeypatch.setattr("secateur.cli.command.tell_next", lambda *_, **__: None)  # of `plan` it reads the model
    stub = functools.wraps(command.function)(lambda **values: called.append(values))
    listed = COMMANDS[group[0]].commands if group else COMMANDS
    monkeypatch.setitem(listed, name, replace(command, function=stub))
    done(secateur(*shlex.split(command.example)[1:]))
    assert len(called) == 1


def test_the_most_used_options_come_first() -> None:
    text = done(secateur("recover", "--help")).output
    order = ["Example:", "Arguments:", "Options:", "  -o, --output", "  --data", "  --teacher", "  --json", "Adapter:"]
    assert sorted(order, key=lambda part: text.index(f"\n{part}")) == order


def test_lists_of_commands_have_examples() -> None:
    assert "Examples:\n  secateur prune " in done(secateur("--help")).output
    assert "  secateur longrange train --task" in done(secateur("longrange", "--help")).output


def test_a_group_lists_its_commands() -> None:
    for arguments in (("attention",), ("attention", "--help")):
        text = done(secateur(*arguments)).output
        for name in ("tune", "generate", "compare"):
            assert f"  {name}" in text
            assert COMMANDS["attention"].commands[name].summary in text


def test_version() -> None:
    assert done(secateur("--version")).output.startswith("secateur 0.")


def test_help_does_not_wait_for_pytorch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "secateur", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "sparsify" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "secateur.cli.main" in imported and not imported & {"torch", "transformers"}


def test_without_a_command_help_is_shown() -> None:
    assert "Commands:" in done(secateur()).output


def test_an_unknown_command_is_status_2() -> None:
    assert "prune" in failed(secateur("prun"), 2)


@pytest.mark.slow
def test_prune_writes_a_model_its_plan_and_how_to_repeat_it(tiny: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    result = done(secateur("prune", tiny, "-o", out, *QUICK_PRUNE, "--json", figures))
    names = {file.name for file in out.iterdir()}
    assert {"model.safetensors", "config.json", "pruning_plan.json", "pruning_strategy.png", "run.log"} <= names
    assert (out / "command.txt").read_text().startswith(f"secateur prune {tiny} -o {out} --ratio 0.2")
    plan = json.loads((out / "pruning_plan.json").read_text())
    assert json.loads(figures.read_text())["parameters_after"] == plan["parameters_after"]
    assert f"{plan['parameters_after']:,}" in result.stdout
    assert result.stdout.rstrip().endswith(str(out))


@pytest.mark.slow
def test_recover_merge_and_evaluate(tiny: Path, tmp_path: Path) -> None:
    adapter, merged, figures = tmp_path / "adapter", tmp_path / "merged", tmp_path / "figures.json"
    done(secateur("recover", tiny, "-o", adapter, *QUICK_RECOVER, "--lora-target", "mlp"))
    assert (adapter / "adapter_model.safetensors").is_file()
    assert "run.log" in {file.name for file in adapter.iterdir()}
    done(secateur("merge", tiny, "--adapter", adapter, "-o", merged, "--device", "cpu"))
    assert (merged / "command.txt").read_text().startswith("secateur merge ")
    plot = tmp_path / "plot.png"
    # In bfloat16 the sum of the weights is rounded, and the two differ by more than a thousandth.
    arguments = ["--adapter", adapter, "--json", figures, "--plot", plot, "--dtype", "float32", *QUICK_EVALUATE]
    result = done(secateur("evaluate", merged, tiny, *arguments))
    rows = json.loads(figures.read_text())["models"]
    assert [row["name"] for row in rows] == ["merged", "tiny", "tiny + adapter"]
    assert rows[0]["perplexity"]["pydocs"] == pytest.approx(rows[2]["perplexity"]["pydocs"], rel=1e-3)
    assert "baseline" in result.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_evaluate_tasks_then_compare(tiny: Path, task_directory: Path, tmp_path: Path) -> None:
    figures, out = tmp_path / "figures.json", tmp_path / "compared"
    tasks = ["--tasks", "sums", "--include-path", task_directory, "--limit", 6, "--num-fewshot", 1, "--device", "cpu"]
    result = done(secateur("evaluate", tiny, tiny, *tasks, "--no-perplexity", "--no-speed", "--json", figures))
    assert "±" in result.stdout and "acc_norm" in result.stdout and "perplexity" not in result.stdout
    assert "it/s" not in result.stderr and "Building contexts" not in result.stderr
    first, second = (row["tasks"]["sums"] for row in json.loads(figures.read_text())["models"])
    assert first == second
    assert (first["n"], first["n_shot"]) == (6, 1)
    assert first["metrics"].keys() == first["stderr"].keys() == {"acc", "acc_norm"}

    result = done(secateur("compare", figures, "-o", out))
    assert result.stdout.rstrip().endswith(str(out / "comparison.html"))
    assert "--overwrite" in failed(secateur("compare", figures, "-o", out))
    assert "is read by this very command" in failed(
        secateur("compare", figures, "-o", tmp_path / "x", "--json", figures)
    )
    done(secateur("compare", figures, out, "-o", tmp_path / "again", "--json", tmp_path / "again.json"))
    again = json.loads((tmp_path / "again.json").read_text())
    assert again.pop("written by").startswith("secateur")
    assert again == json.loads((tmp_path / "again" / "comparison.json").read_text())
    done(secateur("compare", tmp_path / "again.json", "-o", tmp_path / "third"))
    assert "is read by this very command" in failed(
        secateur("compare", out / "comparison.json", "-o", out, "--overwrite")
    )


def test_what_evaluate_refuses_about_tasks(tiny: Path, task_directory: Path, tmp_path: Path) -> None:
    own = ["--include-path", task_directory]
    assert "--limit 0" in failed(secateur("evaluate", tiny, "--tasks", "sums", *own, "--limit", 0), 2)
    assert "none is named" in failed(secateur("evaluate", tiny, *own), 2)
    plot = ["--no-perplexity", "--plot", tmp_path / "x.png"]
    assert "--plot draws perplexities" in failed(secateur("evaluate", tiny, "--tasks", "sums", *own, *plot), 2)
    (task_directory / "sums.jsonl").write_text("")
    assert "sums.jsonl is empty" in failed(secateur("evaluate", tiny, "--tasks", "sums", *own))


@pytest.mark.slow
def test_sweep_reports_a_failed_cell_and_is_status_1(tiny: Path, tmp_path: Path) -> None:
    recipe, out, figures = tmp_path / "r.yaml", tmp_path / "sweep", tmp_path / "figures.json"
    recipe.write_text(
        f"model: {tiny}\ndevice: cpu\nprune: {{samples: 2, seqlen: 32, layer_importance_samples: 1}}\n"
        "evaluate: {windows: 2, seqlen: 32, speed: false}\nsamples: {prompts: [Once], max_new_tokens: 2}\n"
    )
    result = secateur("sweep", recipe, "--set", "prune.ratio=0.2,0.99", "-o", out, "--json", figures)
    assert "1 of 2 cells failed: prune.ratio=0.99: " in failed(result)
    assert "original" in result.stdout and "0.2" in result.stdout and "comparison.html" in result.stdout
    assert json.loads(figures.read_text())["swept"] == ["prune.ratio"]
    assert "did you mean ratio?" in failed(secateur("sweep", recipe, "--set", "prune.ratoi=1", "-o", out), 2)


@pytest.mark.slow
def test_a_sparse_model_through_all_commands(tiny: Path, tmp_path: Path) -> None:
    sparse, figures = tmp_path / "sparse", tmp_path / "figures.json"
    quick = ["--samples", 4, "--seqlen", 32, "--device", "cpu"]
    result = done(secateur("sparsify", tiny, "-o", sparse, "--pattern", "2:4", *quick, "--json", figures))
    assert "50.00% of those in 28 matrices, 50.00% asked" in result.stdout and "peak memory" in result.stdout
    assert {"calibration text", "cut"} <= json.loads(figures.read_text())["seconds"].keys()
    assert (sparse / "sparsity.png").read_bytes().startswith(b"\x89PNG")
    zeros = json.loads((sparse / "sparsity.json").read_text())
    assert {matrix["sparsity"] for matrix in zeros["matrices"]} == {0.5}
    assert "50.00%" in secateur("diagnose", sparse, "--seqlen", 32, "--device", "cpu").stdout

    recovered = done(secateur("recover", sparse, "-o", tmp_path / "recovered", *QUICK_RECOVER))
    assert "50.00% of the weights in its sparse matrices are zero, as before" in recovered.stdout
    table = done(secateur("evaluate", tiny, sparse, tmp_path / "recovered", *QUICK_EVALUATE)).stdout
    assert table.count("50.0%") >= 2

    adapter = tmp_path / "adapter"
    done(secateur("recover", sparse, "-o", adapter, "--method", "lora", *QUICK_RECOVER))
    merge = ["merge", sparse, "--adapter", adapter, "-o", tmp_path / "merged", "--device", "cpu"]
    assert "--zeros keep" in failed(secateur(*merge))
    cost = done(secateur(*merge, "--keep-zeros", "--windows", 1, "--data", "pydocs[:20%]")).stdout
    assert "with the adapter beside the weights" in cost
    assert "50.00%" in secateur("diagnose", tmp_path / "merged", "--seqlen", 32, "--device", "cpu").stdout
    mine = tmp_path / "merged" / "mine.txt"
    mine.write_text("a story " * 500)
    assert "still needed" in failed(secateur(*merge, "--keep-zeros", "--overwrite", "--data", mine))
    assert "holds mine.txt, which secateur did not write" in failed(secateur(*merge, "--allow-dense", "--overwrite"))
    mine.unlink()
    done(secateur(*merge, "--allow-dense", "--overwrite"))
    filled = secateur("diagnose", tmp_path / "merged", "--seqlen", 32, "--device", "cpu").stdout
    assert filled.count("50.00%") == 5, "q_proj and v_proj are dense now"


def test_what_needs_a_gpu_says_so(tiny: Path, tmp_path: Path) -> None:
    assert "needs an NVIDIA GPU" in failed(secateur("evaluate", tiny, "--semi-structured", *QUICK_EVALUATE))
    recover = ["recover", tiny, "-o", tmp_path / "out", "--method", "lora", "--load-in-8bit"]
    assert "needs an NVIDIA GPU" in failed(secateur(*recover, *QUICK_RECOVER))


def test_diagnose_is_status_1_when_something_is_wrong(tiny: Path, tiny_model, tmp_path: Path) -> None:
    quick = ["--seqlen", 32, "--device", "cpu"]
    assert "is whole" in done(secateur("diagnose", tiny, *quick)).stdout
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tiny)
    result = secateur("diagnose", tiny, *quick, "--json", tmp_path / "health.json")
    assert "error" in failed(result)
    assert "NaN" in result.stdout
    assert json.loads((tmp_path / "health.json").read_text())["healthy"] is False


def test_an_output_in_use_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for command in (
        ["prune", "none"],
        ["sparsify", "none"],
        ["recover", "none"],
        ["merge", "none", "--adapter", "none"],
    ):
        assert "--overwrite" in failed(secateur(*command, "-o", tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.slow
def test_overwrite_replaces_the_output(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done(secateur("prune", tiny, "-o", out, *QUICK_PRUNE))
    done(secateur("sparsify", tiny, "-o", out, "--overwrite", "--method", "magnitude"))
    assert not (out / "pruning_plan.json").exists() and (out / "sparsity.json").is_file()
    (out / "notes.txt").write_text("mine")
    line = failed(secateur("prune", tiny, "-o", out, "--overwrite", *QUICK_PRUNE))
    assert "holds notes.txt, which secateur did not write" in line
    assert (out / "notes.txt").read_text() == "mine" and (out / "sparsity.json").is_file()


@pytest.mark.parametrize("output", ["tiny", "tiny/.."])
def test_an_output_never_swallows_what_it_is_made_of(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tiny.iterdir())
    line = failed(secateur("prune", "tiny", "-o", output, "--overwrite", *QUICK_PRUNE))
    assert "holds tiny, which is still needed" in line or "is the current directory, or above it" in line
    assert sorted(path.name for path in tiny.iterdir()) == before


def test_weights_that_are_not_numbers_are_named(tiny: Path, tiny_model, tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    model.save_pretrained(tiny)
    for command, options in (("prune", QUICK_PRUNE), ("recover", QUICK_RECOVER)):
        line = failed(secateur(command, tiny, "-o", tmp_path / "out", *options))
        assert "NaN or infinite values in model.layers.1.mlp.up_proj.weight" in line


@pytest.mark.parametrize("option", [("--damping", "inf"), ("--seed", "99999999999"), ("--own-text", "1")])
def test_numbers_that_nothing_can_use_are_wrong_usage(option: tuple[str, str], tmp_path: Path) -> None:
    assert option[0] in failed(secateur("prune", "smollm2-135m", "-o", tmp_path / "out", *option), 2)


def test_a_file_for_the_figures_is_checked_before_the_work(tmp_path: Path) -> None:
    assert "cannot be written" in failed(secateur("evaluate", "no-model", "--json", tmp_path))
    (tmp_path / "file").write_text("x")
    assert "cannot be written" in failed(secateur("evaluate", "no-model", "--json", tmp_path / "file" / "a.json"))
    line = failed(secateur("evaluate", "no-model", "--json", tmp_path / "file"))
    assert "holds no figures that secateur wrote" in line


def test_figures_replace_nothing_that_is_read(tiny: Path, tmp_path: Path) -> None:
    config = (tiny / "config.json").read_text()
    refused = ["evaluate", tiny, "--json", tiny / "config.json", *QUICK_EVALUATE]
    assert "belongs to the model in" in failed(secateur(*refused))
    assert (tiny / "config.json").read_text() == config
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"text": "a long story " * 50}]))
    words = ["evaluate", tiny, "--data", rows, "--seqlen", 32, "--no-speed", "--json", rows]
    assert "is read by this very command" in failed(secateur(*words))
    assert "story" in rows.read_text()


def test_no_model_there(tmp_path: Path) -> None:
    assert "does not exist" in failed(secateur("prune", tmp_path / "a" / "none", "-o", tmp_path / "out"))
    assert "config.json" in failed(secateur("prune", tmp_path, "-o", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    assert "pickle" in failed(secateur("prune", tiny, "-o", tmp_path / "out", *QUICK_PRUNE))


def test_a_truncated_file_is_named(tiny: Path, tmp_path: Path) -> None:
    weights = tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors" in failed(secateur("prune", tiny, "-o", tmp_path / "out", *QUICK_PRUNE))


def test_a_text_that_cannot_be_used(tiny: Path, tmp_path: Path) -> None:
    short = tmp_path / "text.txt"
    short.write_text("Too little.")
    arguments = ["prune", tiny, "-o", tmp_path / "out", *QUICK_PRUNE, "--calibration"]
    assert "did you mean pydocs" in failed(secateur(*arguments, "pydoc"))
    assert "longer text" in failed(secateur(*arguments, short))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ratio", ["0", "1", "-0.2", "1.5", "nan", "half"])
def test_a_ratio_outside_0_and_1_is_status_2(ratio: str, tmp_path: Path) -> None:
    assert f"--ratio {ratio}: " in failed(secateur("prune", "none", "-o", tmp_path / "out", f"--ratio={ratio}"), 2)


def test_layers_outside_the_model(tiny: Path, tmp_path: Path) -> None:
    arguments = ["-o", tmp_path / "out", *QUICK_PRUNE, "--layers", "2:9"]
    assert "2:9" in failed(secateur("prune", tiny, *arguments))


def test_debug_shows_where(tmp_path: Path) -> None:
    result = secateur("prune", tmp_path, "-o", tmp_path / "out", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "Error: " in result.stderr


def test_interruption_is_status_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.runs.steps.prune_model", interrupted)
    assert failed(secateur("prune", "m", "-o", tmp_path / "out"), 130) == "Error: interrupted"


def recipe_at(path: Path, model: Path) -> Path:
    path.write_text(
        f"""
name: quick
model: {model}
device: cpu
prune: {{ratio: 0.2, samples: 4, seqlen: 32, layer_importance_samples: 2}}
recover: {{samples: 16, seqlen: 32, merge: true, val_size: 0, teacher: original}}
evaluate: {{windows: 4, seqlen: 32, prompt_tokens: 8, new_tokens: 2, repeats: 1}}
samples: {{prompts: [Once], max_new_tokens: 2}}
"""
    )
    return path


@pytest.mark.slow
def test_run_ends_with_the_table_and_the_path_of_the_report(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_at(tmp_path / "recipe.yaml", tiny)
    result = done(secateur("run", recipe))
    lines = result.stdout.strip().splitlines()
    assert lines[-1] == "runs/quick/report.html"
    for name in ("original", "pruned", "recovered"):
        assert any(line.startswith(name) for line in lines)
    assert (tmp_path / "runs/quick/command.txt").read_text() == f"secateur run {recipe}\n"
    before = (tmp_path / "runs/quick/report.html").read_text()
    (tmp_path / "runs/quick/report.html").unlink()
    assert done(secateur("report", "runs/quick")).stdout.strip() == lines[-1]
    assert (tmp_path / "runs/quick/report.html").read_text() == before


def test_run_refuses_a_directory_that_is_no_run(tiny: Path, tmp_path: Path) -> None:
    recipe = recipe_at(tmp_path / "recipe.yaml", tiny)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    assert "not a run" in failed(secateur("run", recipe, "-o", tmp_path / "thesis", "--overwrite"))
    assert "still needed" in failed(secateur("run", recipe, "-o", tiny, "--overwrite"))
    assert (tiny / "config.json").is_file()


def test_run_names_the_mistake_in_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: m\nprune: {ratoi: 0.2}\n")
    assert "did you mean ratio?" in failed(secateur("run", tmp_path / "r.yaml", "-o", tmp_path / "out"), 2)
    assert not (tmp_path / "out").exists()


def test_report_of_a_directory_that_is_no_run(tmp_path: Path) -> None:
    assert "metrics.json" in failed(secateur("report", tmp_path / "none"))


@pytest.mark.slow
def test_figures_replace_only_figures(tiny: Path, tmp_path: Path) -> None:
    for suffix, option in (("json", "--json"), ("png", "--plot")):
        mine, figures = tmp_path / f"package.{suffix}", tmp_path / f"figures.{suffix}"
        mine.write_text('{"name": "mine"}')
        line = failed(secateur("evaluate", tiny, option, mine, *QUICK_EVALUATE))
        assert "holds no figures that secateur wrote" in line and mine.read_text() == '{"name": "mine"}'
        for _ in range(2):
            done(secateur("evaluate", tiny, option, figures, *QUICK_EVALUATE))


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "NAME"],
        ["evaluate", "TINY", "--data", "NAME.txt"],
        ["merge", "TINY", "--adapter", "NAME", "-o", "out"],
        ["prune", "TINY", "-o", "NAME"],
        ["run", "NAME"],
        ["compare", "NAME", "-o", "out"],
        ["report", "NAME"],
        ["attention", "compare", "TINY", "--profile", "NAME"],
        ["longrange", "train", "--task", "listops", "-o", "NAME"],
    ],
    ids=" ".join,
)
def test_a_name_that_the_system_does_not_take_is_one_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.replace("NAME", "n" * 300).replace("TINY", str(tiny)) for word in command]
    line = failed(secateur(*words))
    assert "unexpected" not in line
    assert "File name too long" in line or "does not exist" in line
