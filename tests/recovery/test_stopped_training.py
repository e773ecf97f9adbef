"""Trainings that are killed, run out of memory, or diverge."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import InputError, OutputError, TrainingError
from secateur.recovery import RecoverResult
from secateur.recovery.student import Student
from secateur.recovery.trainer import RecoveryTrainer, lacks_memory

Train = Callable[..., RecoverResult]
TinyModel = Callable[..., PreTrainedModel]

StoppedAt = Callable[[int], AbstractContextManager[None]]

PICKLES = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "step"), [("lora", 5), ("lora", 13), ("full", 8)])
def test_a_killed_training_goes_on_as_if_nothing_had_been(
    stopped_at: StoppedAt,
    train: Train,
    tiny_model: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    method: str,
    step: int,
) -> None:
    settings: dict[str, Any] = {
        "method": method,
        "epochs": 2,
        "lora_dropout": 0.2 if method == "lora" else 0.0,
        "checkpoint_steps": 3,
        "weight_decay": 0.1,
        "early_stopping_patience": 50,
    }
    whole = train(tiny_model(), "whole", **settings)
    with stopped_at(step):
        train(tiny_model(), **settings)
    partial = tmp_path / "out.partial"
    assert [path.name for path in partial.glob("checkpoint-*")] == [f"checkpoint-{step // 3 * 3}"]
    assert not PICKLES & {path.suffix for path in partial.rglob("*")}
    first_steps: list[int] = []
    original = RecoveryTrainer.training_step

    def noted(self: RecoveryTrainer, *arguments: Any) -> Tensor:
        first_steps.append(self.state.global_step)
        return original(self, *arguments)

    monkeypatch.setattr(RecoveryTrainer, "training_step", noted)
    resumed = train(tiny_model(), **settings)
    assert first_steps[0] == step // 3 * 3
    assert resumed.history == whole.history
    assert resumed.tokens == whole.tokens
    expected = weights_of(whole.model)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(resumed.model).items())
    assert not partial.exists()


@pytest.mark.slow
def test_other_settings_do_not_go_on(
    stopped_at: StoppedAt, train: Train, tiny_model: TinyModel, tmp_path: Path
) -> None:
    with stopped_at(4):
        train(tiny_model(), checkpoint_steps=2)
    with pytest.raises(InputError, match=r"unfinished training with other settings \(lr: 0.001, now 0.0005\)"):
        train(tiny_model(), lr=5e-4)
    with pytest.raises(InputError, match="model weights"):
        train(tiny_model(seed=1))
    result = train(tiny_model(), lr=5e-4, overwrite=True)
    assert result.history[0]["step"] == 0
    assert not (tmp_path / "out.partial").exists()


def test_a_training_that_did_not_begin_is_not_in_the_way(
    stopped_at: StoppedAt, train: Train, tiny_model: TinyModel, tmp_path: Path
) -> None:
    with stopped_at(0):
        train(tiny_model(), val_size=0)
    assert (tmp_path / "out.partial").exists()
    assert train(tiny_model(), lr=5e-4).steps == 8


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json", "random.safetensors"])
def test_a_damaged_checkpoint_is_named(
    stopped_at: StoppedAt, train: Train, tiny_model: TinyModel, tmp_path: Path, file: str
) -> None:
    with stopped_at(4):
        train(tiny_model(), checkpoint_steps=2)
    (damaged,) = (tmp_path / "out.partial").glob("checkpoint-*")
    (damaged / file).write_bytes((damaged / file).read_bytes()[:20])
    with pytest.raises(TrainingError, match=r"checkpoint-\d+ is damaged .* delete .*out.partial to begin anew"):
        train(tiny_model(), checkpoint_steps=2)


def test_someone_else_s_directory_is_left_alone(train: Train, tiny_model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    for name in ("settings.json", "thesis.tex"):
        (tmp_path / "out.partial" / name).write_text("{}", encoding="utf-8")
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="in the way of what this training keeps"):
                train(tiny_model(), overwrite=overwrite)
        assert (tmp_path / "out.partial" / name).exists()


@pytest.mark.slow
def test_a_micro_batch_that_does_not_fit_is_halved(
    train: Train, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(tiny_model(), "expected", batch_size=8, micro_batch_size=8)
    original = Student.hidden_states
    failed: list[int] = []

    def narrow(self: Student, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        if len(input_ids) > 2:
            failed.append(len(input_ids))
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return original(self, input_ids, attention_mask)

    monkeypatch.setattr(Student, "hidden_states", narrow)
    result = train(tiny_model(), batch_size=8, micro_batch_size=8)
    assert failed == [8, 4]
    assert result.micro_batch_size == 2
    for name, weight in weights_of(expected.model).items():
        torch.testing.assert_close(weights_of(result.model)[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_memory_that_ends_in_the_backward_pass_leaves_no_half_gradient(
    train: Train, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(tiny_model(), "expected", val_size=0, micro_batch_size=2)
    original = RecoveryTrainer._parts_with_gradients
    failures = iter([True])

    def failing(self: RecoveryTrainer, *arguments: Any) -> Tensor:
        loss = original(self, *arguments)
        if next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss

    monkeypatch.setattr(RecoveryTrainer, "_parts_with_gradients", failing)
    result = train(tiny_model(), val_size=0, micro_batch_size=4)
    for name, weight in weights_of(expected.model).items():
        torch.testing.assert_close(weights_of(result.model)[name], weight, rtol=1e-4, atol=1e-5)


def test_one_window_that_does_not_fit_is_an_error(
    train: Train, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Student, *arguments: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")

    monkeypatch.setattr(Student, "hidden_states", never)
    with pytest.raises(
        TrainingError, match=r"memory is short with windows at once: 1 .*seqlen=.*gradient_checkpointing=True"
    ):
        train(tiny_model())


def test_other_errors_are_not_taken_for_memory() -> None:
    assert lacks_memory(RuntimeError("not enough memory: you tried to allocate 5 bytes"))
    assert lacks_memory(MemoryError())
    assert not lacks_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lacks_memory(ValueError("out of memory"))


def poison_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = RecoveryTrainer._parts_with_gradients

    def poisoned(self: RecoveryTrainer, *arguments: Any) -> Tensor:
        loss = original(self, *arguments)
        return loss * float("nan") if self.state.global_step == step else loss

    monkeypatch.setattr(RecoveryTrainer, "_parts_with_gradients", poisoned)


def test_a_loss_that_is_not_finite_stops_and_keeps_good_weights(
    train: Train, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poison_at(monkeypatch, 5)
    with pytest.raises(TrainingError) as caught:
        train(tiny_model())
    message = str(caught.value)
    assert "stopped at step 6: the loss is nan" in message
    for advice in ("lr= (now 0.001)", "max_grad_norm=", "warmup_steps=", "float32"):
        assert advice in message
    assert "\n" not in message
    kept = tmp_path / "out.last-good"
    assert str(kept) in message
    adapted = PeftModel.from_pretrained(tiny_model(), str(kept))
    assert bool(torch.isfinite(adapted(torch.arange(9)[None]).logits).all())
    note = json.loads((kept / "recovery.json").read_text(encoding="utf-8"))
    assert note["step"] == 4
    assert note["history"][-1]["step"] == 5
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_a_learning_rate_far_too_high_is_caught(train: Train, tiny_model: TinyModel) -> None:
    with pytest.raises(TrainingError, match=r"stopped at step .* try a lower lr="):
        train(tiny_model(), method="full", lr=1e30, warmup_steps=0)


def test_without_a_good_step_nothing_is_kept(
    train: Train, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poison_at(monkeypatch, 0)
    with pytest.raises(TrainingError, match="no weights are worth keeping"):
        train(tiny_model())
    assert not (tmp_path / "out.last-good").exists()
