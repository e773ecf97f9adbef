"""A whole recipe on a tiny model: figures, artefacts, killing and continuing, leaving stages out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from json_docs import require_valid_below
from secateur.data import load_corpus
from secateur.errors import DataError, InputError, OutputError
from secateur.files import is_as_written
from secateur.runs import stages as pipeline
from secateur.runs.pages import write_report
from secateur.runs.recipe import Recipe
from secateur.runs.stages import run_recipe

PRUNE = {"ratio": 0.2, "samples": 4, "seqlen": 32, "layer_importance_windows": 2}
SPARSIFY = {"samples": 4, "seqlen": 32}
RECOVER = {"samples": 16, "seqlen": 32, "val_size": 0, "merge": True}
MEASURE = {"windows": 4, "seqlen": 32, "prompt_tokens": 8, "new_tokens": 2, "repeats": 1}


@pytest.fixture
def recipe(tiny_model, tiny_tokenizer, tmp_path: Path, private_cache: Path) -> Callable[..., Recipe]:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    text = tmp_path / "text.txt"
    text.write_text(load_corpus("pydocs").text[:5000])

    def make(**sections: Any) -> Recipe:
        texts = {
            "search": {"calibration": str(text)},
            "prune": {"calibration": str(text)},
            "sparsify": {"calibration": str(text)},
            "recover": {"data": str(text)},
            "evaluate": {"data": [str(text)]},
        }
        given = {"evaluate": MEASURE, **sections}
        return Recipe(
            model=str(tmp_path / "tiny"),
            samples={"prompts": ["Once upon"], "max_new_tokens": 2},
            **{"device": "cpu", "seed": given.pop("seed", 0)},
            **{name: {**texts[name], **section} for name, section in given.items()},
        )

    return make


def run(recipe: Recipe, directory: Path, **options: Any) -> dict[str, Any]:
    metrics = run_recipe(recipe, "the recipe", directory, command_line="secateur run r.yaml", **options)
    require_valid_below(directory)
    return metrics


def models(metrics: dict[str, Any]) -> list[str]:
    return [model["name"] for model in metrics["models"]]


@pytest.mark.slow
def test_figures_and_artefacts_of_a_run(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    metrics = run(recipe(prune=PRUNE, recover=RECOVER, seed=3), tmp_path / "run")
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == metrics
    assert models(metrics) == ["original", "pruned", "recovered"]
    for model in metrics["models"]:
        assert model["perplexity"][str(tmp_path / "text.txt")] > 1
        assert model["prefill_tokens_per_second"] > 0
        assert model["decode_tokens_per_second"] > 0
        assert [sample["prompt"] for sample in model["samples"]] == ["Once upon"]
    original, pruned, recovered = metrics["models"]
    assert pruned["parameters"] == recovered["parameters"] == pytest.approx(0.8 * original["parameters"], rel=0.02)
    assert metrics["seed"] == 3
    assert {"torch", "transformers", "secateur"} <= metrics["versions"].keys()
    assert {"cpu", "cores", "gpu"} <= metrics["machine"].keys()
    stages = ["measure-original", "importance", "prune", "measure-pruned", "recover", "measure-recovered", "speed"]
    assert list(metrics["seconds"]) == stages
    assert [text["role"] for text in metrics["texts"]] == [
        "evaluation",
        "speed",
        "importance",
        "calibration",
        "training",
    ]
    names = {file.name for file in (tmp_path / "run").iterdir()}
    artefacts = "recipe.yaml command.txt run.log layer_importance.json pruning_plan.json pruning_strategy.png"
    assert {*artefacts.split(), "metrics.json", "report.html", *stages} <= names
    assert (tmp_path / "run/recipe.yaml").read_text() == "the recipe"
    log = (tmp_path / "run/run.log").read_text()
    assert all(stage in log for stage in stages)
    text = str(tmp_path / "text.txt")
    for name, figures in (("prune", pruned), ("recover", recovered)):
        card = (tmp_path / "run" / name / "README.md").read_text()
        assert f"| perplexity | {original['perplexity'][text]:,.4g} | {figures['perplexity'][text]:,.4g} |" in card
        assert "text.txt" in card and str(tmp_path) not in card
        assert is_as_written(tmp_path / "run" / name, "README.md")
    assert "it was trained on text of the same source" in card
    assert card.index("1. **prune.**") < card.index("2. **recover.**")


@pytest.mark.parametrize(
    ("prune", "scored"),
    [
        ({}, False),
        ({"allocation": "uniform"}, False),
        ({"allocation": "inverse", "even": True}, False),
        ({"allocation": "inverse"}, True),
        ({"layer_importance": "similarity"}, True),
    ],
)
def test_layers_are_scored_where_that_is_used(
    recipe: Callable[..., Recipe], tmp_path: Path, prune: dict[str, Any], scored: bool
) -> None:
    steps = pipeline.Pipeline(recipe(prune=prune), tmp_path, tmp_path).stages()
    assert ("importance" in [step.name for step in steps]) is scored
    cut = next(step for step in steps if step.name == "prune")
    assert ("importance" in cut.needs) is scored


@pytest.mark.slow
def test_a_cut_follows_the_recipes_search(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    made = recipe(search={"ratio": 0.2, "samples": 4, "seqlen": 32, "rounds": 2}, prune={})
    run(made, tmp_path / "run")
    found, cut = (json.loads((tmp_path / f"run/{name}/pruning_plan.json").read_text()) for name in ("search", "prune"))
    names = ("removed_groups", "removed_channels")
    assert [[layer[name] for name in names] for layer in cut["layers"]] == [
        [layer[name] for name in names] for layer in found["layers"]
    ]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert [entry["purpose"] for entry in metrics["commands"]] == [
        "The whole run",
        "The search",
        "The cut",
        "The figures",
    ]
    assert "importance" not in [*metrics["seconds"], *(text["role"] for text in metrics["texts"])]
    assert not (tmp_path / "run/layer_importance.json").exists()
    assert "importance" not in (tmp_path / "run/report.html").read_text().lower()
    assert "--plan search/pruning_plan.json" in metrics["commands"][2]["command"]


def test_commands_of_the_single_steps_hold_what_differs_from_the_defaults(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    made = recipe(prune=PRUNE, recover={**RECOVER, "teacher": "original"})
    commands = [c["command"] for c in pipeline.Pipeline(made, tmp_path, tmp_path).commands("secateur run r.yaml")]
    model = made.model
    assert commands[0] == "secateur run r.yaml"
    assert commands[1].startswith(f"secateur prune {model} -o pruned --device cpu ")
    assert "--ratio 0.2 " in commands[1]
    assert f"--teacher {model}" in commands[2]
    assert "--merge" in commands[2]
    assert "--method" not in commands[2]
    assert commands[3].startswith(f"secateur evaluate {model} pruned recovered --device cpu --data ")


@pytest.mark.slow
def test_a_killed_run_continues(recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worked: list[str] = []
    kill = {"recover_model"}

    def watch(name: str) -> None:
        real = getattr(pipeline, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            worked.append(name)
            if name in kill:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        monkeypatch.setattr(pipeline, name, watched)

    for name in ("measure", "score_layers", "prune_model", "recover_model", "measure_speeds"):
        watch(name)
    made = recipe(prune=PRUNE, recover=RECOVER)
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "run")
    assert worked == ["measure", "score_layers", "prune_model", "measure", "recover_model"]
    assert not (tmp_path / "run/metrics.json").exists()
    kill.clear()
    worked.clear()
    metrics = run(made, tmp_path / "run")
    assert worked == ["recover_model", "measure", "measure_speeds"]
    assert models(metrics) == ["original", "pruned", "recovered"]
    worked.clear()
    assert run(made, tmp_path / "run")["models"] == metrics["models"]
    assert worked == []
    run(recipe(prune={**PRUNE, "ratio": 0.25}, recover=RECOVER), tmp_path / "run")
    assert worked == ["prune_model", "measure", "recover_model", "measure", "measure_speeds"]


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from secateur.recovery.trainer import RecoveryTrainer

    made = recipe(recover={**RECOVER, "samples": 40, "checkpoint_steps": 1})
    real = RecoveryTrainer.training_step

    def dies_at_step_2(self: RecoveryTrainer, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RecoveryTrainer, "training_step", dies_at_step_2)
        run(made, tmp_path / "run")
    metrics = run(made, tmp_path / "run")
    assert "Going on from" in (tmp_path / "run/run.log").read_text()
    straight = run(made, tmp_path / "straight")
    assert metrics["models"][-1]["perplexity"] == pytest.approx(straight["models"][-1]["perplexity"])


@pytest.mark.slow
def test_without_recovery(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    metrics = run(recipe(prune=PRUNE, evaluate={**MEASURE, "speed": False}), tmp_path / "run")
    assert models(metrics) == ["original", "pruned"]
    assert metrics["models"][0]["prefill_tokens_per_second"] is None
    assert "recover" not in metrics["seconds"]


@pytest.mark.slow
def test_zeros_recovery_and_their_map(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    sections = {"sparsify": SPARSIFY, "recover": {**RECOVER, "merge": False}}
    metrics = run(recipe(**sections), tmp_path / "run")
    assert models(metrics) == ["original", "sparse", "recovered"]
    assert [row["sparsity"] for row in metrics["models"]] == pytest.approx([0, 0.5, 0.5])
    assert metrics["models"][-1]["recovers"] == "sparse"
    assert metrics["training"]["method"] == "masked-lora"
    assert {"sparsity.json", "sparsity.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
    page = (tmp_path / "run/report.html").read_text()
    assert "Where the zeros are" in page and "50.0% of the weights of its projections are zero" in page
    assert "the sparse model was calibrated on this very text" in page
    commands = [entry["command"].split()[1:3] for entry in metrics["commands"]]
    assert ["sparsify", str(tmp_path / "tiny")] in commands and ["recover", "sparse"] in commands
    assert run(recipe(**sections), tmp_path / "run")["seconds"] == metrics["seconds"]


@pytest.mark.slow
def test_both_cuts_one_after_the_other(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    metrics = run(recipe(prune=PRUNE, sparsify={**SPARSIFY, "pattern": "2:4"}, recover=RECOVER), tmp_path / "run")
    assert models(metrics) == ["original", "pruned", "sparse", "recovered"]
    last = metrics["models"][-1]
    assert last["sparsity"] == 0.5
    assert last["parameters"] < metrics["models"][0]["parameters"]


@pytest.mark.slow
def test_without_a_cut_and_unmerged(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    metrics = run(recipe(recover={**RECOVER, "merge": False}), tmp_path / "run")
    assert models(metrics) == ["original", "recovered"]
    assert (tmp_path / "run/recover/adapter_config.json").is_file()
    command = metrics["commands"][-1]["command"]
    assert command.startswith(f"secateur evaluate {tmp_path}/tiny --adapter recovered --device cpu ")
    assert not (tmp_path / "run/pruning_plan.json").exists()
    assert "baseline" in (tmp_path / "run/report.html").read_text()


def test_only_measuring(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    assert models(run(recipe(), tmp_path / "run")) == ["original"]


def test_several_texts_the_first_is_the_number(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    data = [f"{tmp_path}/text.txt[50%:]", f"{tmp_path}/text.txt[:50%]"]
    model = run(recipe(evaluate={**MEASURE, "data": data}), tmp_path / "run")["models"][0]
    assert list(model["perplexity"]) == data
    assert model["perplexity"][data[0]] != model["perplexity"][data[1]]


@pytest.mark.slow
def test_tasks_at_every_stage(recipe: Callable[..., Recipe], task_directory: Path, tmp_path: Path) -> None:
    tasks = {"tasks": ["sums"], "include_path": str(task_directory), "limit": 5, "speed": False}
    made = recipe(prune=PRUNE, evaluate={**MEASURE, **tasks})
    metrics = run(made, tmp_path / "run")
    assert [model["tasks"]["sums"]["n"] for model in metrics["models"]] == [5, 5]
    assert metrics["texts"][-1]["figure"] == "accuracy on sums"
    page = (tmp_path / "run/report.html").read_text()
    assert "<h2>Tasks</h2>" in page and "accuracy on sums" in page and "±" in page
    assert "--tasks sums" in metrics["commands"][-1]["command"]
    before = metrics["seconds"]
    (task_directory / "sums.yaml").write_text((task_directory / "sums.yaml").read_text() + 'description: "Add. "\n')
    again = run(made, tmp_path / "run")
    assert again["models"][0]["tasks"]["sums"]["prompts"] != metrics["models"][0]["tasks"]["sums"]["prompts"]
    assert again["seconds"]["prune"] == before["prune"]


def test_a_mistyped_task_is_named_before_any_work(
    recipe: Callable[..., Recipe], task_directory: Path, tmp_path: Path
) -> None:
    (task_directory / "sums.jsonl").unlink()
    with pytest.raises(DataError, match=r"the data file sums\.jsonl is not there"):
        run(recipe(evaluate={"tasks": ["sums"], "include_path": str(task_directory)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damage_in_a_finished_run_is_named(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run(recipe(), tmp_path / "run")
    (tmp_path / "run/metrics.json").write_text("{")
    with pytest.raises(OutputError, match=r"metrics\.json is damaged"):
        write_report(tmp_path / "run")


def test_the_report_of_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no metrics\.json"):
        write_report(tmp_path)
