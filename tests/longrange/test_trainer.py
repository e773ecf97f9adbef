"""Training: the switch, going on after a stop, batches that do not fit, what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from secateur.errors import DataError, InputError, OutputError, TrainingError
from secateur.longrange.config import LongRangeConfig
from secateur.longrange.data import prepare
from secateur.longrange.evaluate import evaluate, load_model
from secateur.longrange.model import LongRangeModel
from secateur.longrange.options import EvaluateConfig, TrainConfig
from secateur.longrange.run import train_run
from secateur.longrange.schedule import batch_of_step, learning_rate
from secateur.longrange.trainer import Trainer

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(options: dict[str, Any], settled: LongRangeConfig, tmp_path: Path) -> Train:
    def run(training: dict[str, Any] | None = None, overwrite: bool = False, **more: Any) -> dict[str, Any]:
        results = train_run(
            TrainConfig(**options | more),
            tmp_path,
            command_line="secateur longrange train",
            overwrite=overwrite,
            settled=settled.overlaid({"training": training or {}}),
        )
        assert results is not None
        return results

    return run


def test_a_run_switches_and_leaves_everything_behind(train: Train, prepared: Path, tmp_path: Path) -> None:
    results = train()
    assert results["switched"] == 6
    assert results["reason"] == "num_dense_train_steps"
    assert 0.1 < results["density"] <= 0.3
    assert results["steps"] == 12
    assert set(results["step_ms"]) == {"dense", "checked", "sparse"}
    assert set(results["memory_bytes"]) == {"dense", "checked", "sparse"}
    assert [entry["step"] for entry in results["history"]] == [1, 3, 5]
    assert {entry["step"] for entry in results["evaluations"]} == {4, 8, 12}
    files = {
        ".secateur.json",
        "README.md",
        "best.safetensors",
        "command.txt",
        "last.safetensors",
        "patterns.png",
        "results.json",
        "run.log",
    }
    assert files | {"settings.json", "switch.png"} == {file.name for file in (tmp_path / "sat").iterdir()}
    card = (tmp_path / "sat/README.md").read_text()
    assert f"| accuracy | {results['accuracy']:.2%} |" in card and "library_name: secateur" in card
    model, _ = load_model(tmp_path / "sat", "listops")
    assert model.patterns is not None
    found = evaluate(EvaluateConfig(task="listops", data=prepared, device="cpu"), tmp_path)
    assert found["accuracy"] == results["accuracy"]
    assert train() == results


def test_settled_attention_switches_by_itself(train: Train) -> None:
    results = train(training={"skewness": -100.0, "distance": 1e6})
    assert results["reason"] == "settled"
    assert results["switched"] == 5


@pytest.mark.slow
def test_dense_never_switches_and_sparse_begins_so(train: Train) -> None:
    dense = train(name="dense", mode="dense")
    assert dense["switched"] is None
    assert dense["density"] is None
    sparse = train(name="sparse", mode="sparse")
    assert sparse["switched"] == 0
    assert set(sparse["step_ms"]) == {"sparse"}


@pytest.mark.slow
def test_both_rules_choose_blocks(train: Train, tmp_path: Path) -> None:
    blocks = []
    for rule in ("learned", "mean-attention"):
        train(name=rule, pattern=rule)
        blocks.append(load_file(tmp_path / rule / "best.safetensors")["pattern_blocks"])
    assert not torch.equal(*blocks)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [5, 10])
def test_a_run_that_was_stopped_goes_on(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: int
) -> None:
    whole = train(name="whole")
    step = Trainer._step

    def interrupted(self: Trainer) -> None:
        if self.state.step == stop:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(name="parts")
    parts = train(name="parts")
    for key in ("accuracy", "evaluations", "history", "switched"):
        assert parts[key] == whole[key]
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(train: Train) -> None:
    one, other = train(name="one"), train(name="other")
    assert one["evaluations"] == other["evaluations"]
    assert train(name="third", seed=7)["evaluations"] != one["evaluations"]


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_split(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(name="whole", mode="dense")
    forward = LongRangeModel.forward

    def cramped(self: LongRangeModel, input_ids: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        if len(input_ids) > 3 and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids, *more, **options)

    monkeypatch.setattr(LongRangeModel, "forward", cramped)
    parts = train(name="parts", mode="dense")
    assert [entry["step"] for entry in parts["losses"]] == [entry["step"] for entry in whole["losses"]]
    # Dropout falls differently on parts.
    assert abs(parts["losses"][0]["loss"] - whole["losses"][0]["loss"]) < 0.1
    assert train(name="auto")["switched"] == 6


def test_an_example_that_does_not_fit(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LongRangeModel, "forward", full)
    with pytest.raises(TrainingError, match="a single example does not fit in memory"):
        train()


@pytest.mark.slow
def test_training_ends_when_accuracy_no_longer_rises(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"patience": 2, "num_train_steps": 60, "learning_rate": 1e-9, "eval_frequency": 2}
    results = train(training=training)
    assert results["switched"] == 6  # patience counts from the switch on
    assert results["steps"] < 20
    dense = train(name="dense", mode="dense", training=training)
    assert 6 < dense["steps"] < 20  # and without one from where the latest would be


@pytest.mark.parametrize("rate", [1e6])
def test_a_loss_that_is_not_finite(train: Train, rate: float) -> None:
    with pytest.raises(TrainingError, match="take a smaller learning_rate or more warmup"):
        train(training={"learning_rate": rate, "warmup": 0})


@pytest.mark.slow
def test_runs_with_other_settings_are_kept_apart(train: Train, tmp_path: Path) -> None:
    train()
    with pytest.raises(
        OutputError, match="holds a run with other settings or data; give another name=, or overwrite=True"
    ):
        train(seed=3)
    assert train(seed=3, overwrite=True)["seed"] == 3
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something that is not a run"):
        train(name="notes")


def test_checkpoints_that_do_not_fit(train: Train, prepared: Path, tmp_path: Path) -> None:
    train()
    with pytest.raises(InputError, match=r"is a checkpoint of the task listops, not of text; give task=.listops."):
        evaluate(EvaluateConfig(task="text", data=prepared), tmp_path)
    with pytest.raises(InputError, match="holds no run; secateur longrange train makes one"):
        evaluate(EvaluateConfig(task="listops", name="other", data=prepared), tmp_path)
    best = tmp_path / "sat" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"best.safetensors is damaged; train anew with overwrite=True"):
        evaluate(EvaluateConfig(task="listops", data=prepared), tmp_path)
    best.write_bytes((tmp_path / "sat" / "last.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"best.safetensors does not fit the run's settings, or is damaged"):
        evaluate(EvaluateConfig(task="listops", data=prepared), tmp_path)
    (tmp_path / "sat" / "settings.json").write_text("{}")
    with pytest.raises(InputError, match=r"settings.json is damaged; train anew with overwrite=True"):
        evaluate(EvaluateConfig(task="listops", data=prepared), tmp_path)


@pytest.mark.slow
def test_a_finished_run_is_not_trained_further(train: Train, tmp_path: Path) -> None:
    training = {"patience": 2, "num_train_steps": 60, "learning_rate": 1e-9, "eval_frequency": 2}
    results = train(training=training)
    (tmp_path / "sat" / "results.json").unlink()
    assert train(training=training)["evaluations"] == results["evaluations"]
    for damaged in ("[]", "{}", "null", "nothing"):
        (tmp_path / "sat" / "results.json").write_text(damaged)
        with pytest.raises(OutputError, match=r"results.json is damaged; delete it"):
            train(training=training)


@pytest.mark.slow
def test_a_run_belongs_to_its_data(train: Train, tmp_path: Path) -> None:
    train()
    prepare("listops", tmp_path / "other", max_length=64, train=100, dev=40, test=40, seed=1)
    with pytest.raises(OutputError, match="with other settings or data"):
        train(data=tmp_path / "other")


def test_a_run_that_failed_early_begins_anew(train: Train) -> None:
    with pytest.raises(TrainingError):
        train(training={"learning_rate": 1e6, "warmup": 0})
    assert train()["steps"] == 12


@pytest.mark.slow
def test_overwriting_keeps_the_old_run_until_the_new_one_is_done(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = train()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(overwrite=True, seed=1)
    load_model(tmp_path / "sat", "listops")
    assert train() == before
    assert train(overwrite=True, seed=1)["seed"] == 1
    assert not (tmp_path / "sat.partial").exists()


@pytest.mark.slow
def test_pictures_stand_before_a_run_counts_as_done(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("secateur.longrange.run.pattern_plot", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train()
    train()
    assert (tmp_path / "sat" / "patterns.png").is_file()


def test_data_that_do_not_fit(prepared: Path, settled: LongRangeConfig, tmp_path: Path) -> None:
    def started(task: str, base: LongRangeConfig, data: Path = prepared) -> None:
        config = TrainConfig(task=task, data=data, device="cpu")  # type: ignore[arg-type]
        train_run(config, tmp_path, command_line="", settled=base)

    with pytest.raises(InputError, match="holds examples of listops, not of text; give data=DIR"):
        started("text", LongRangeConfig.of_task("text"))
    with pytest.raises(InputError, match=r"needs a max_seq_len of 64 and the model has 32; set model.max_seq_len"):
        started("listops", settled.overlaid({"model": {"max_seq_len": 32}}))
    with pytest.raises(DataError, match="holds no prepared data"):
        started("listops", settled, tmp_path)


def test_options_lie_over_the_file_and_the_file_over_the_task(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("training: {batch_size: 5, skewness: 2.5}\n")
    found = TrainConfig(task="listops", config=file, train_steps=500, distance=0.5).settled()
    own = LongRangeConfig.of_task("listops")
    assert found.training.batch_size == 5
    assert (found.training.skewness, found.training.distance) == (2.5, 0.5)
    assert found.training.num_train_steps == 500
    # A tenth of the file's steps: the switch comes as much earlier.
    assert found.training.num_dense_train_steps == own.training.num_dense_train_steps // 10
    assert found.model == own.model


def test_every_example_is_seen_once_in_an_epoch() -> None:
    seen = [batch_of_step(10, 4, step, seed=1).tolist() for step in range(5)]
    numbers = [number for batch in seen for number in batch]
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
    assert numbers[:10] != numbers[10:]


@pytest.mark.parametrize("decay", ["linear", "cosine", "none"])
def test_learning_rates(settled: LongRangeConfig, decay: str) -> None:
    training = settled.overlaid({"training": {"lr_decay": decay, "warmup": 4, "num_train_steps": 20}}).training
    rates = [learning_rate(training, step, False) for step in range(20)]
    assert rates[:4] == pytest.approx([training.learning_rate * share for share in (0.25, 0.5, 0.75, 1.0)])
    assert rates[4] == pytest.approx(training.learning_rate)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert (rates[-1] == rates[4]) == (decay == "none")
    assert learning_rate(training, 10, True) == pytest.approx(rates[10] / 2)


@pytest.mark.slow
def test_curves_for_tensorboard(train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="needs the package tensorboard: pip install tensorboard"):
        train(report_to="tensorboard")
    written: list[tuple[str, int]] = []

    class Writer:
        def __init__(self, directory: str) -> None:
            assert directory == str(tmp_path / "sat" / "tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def close(self) -> None:
            written.append(("closed", 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    train(report_to="tensorboard")
    assert {("train/loss", 0), ("dev/accuracy", 4), ("dev/accuracy", 12), ("closed", 0)} <= set(written)


def test_results_are_json(train: Train, tmp_path: Path) -> None:
    results = train()
    assert json.loads((tmp_path / "sat" / "results.json").read_text()) == json.loads(json.dumps(results))
