"""Training from Python: without an output, with callbacks, with a loss of the user's own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from secateur import recover
from secateur.errors import InputError, TrainingError

Models = Callable[..., PreTrainedModel]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    data = str(tmp_path / "text.txt")
    return {"data": data, "seqlen": 32, "samples": 16, "batch_size": 4, "method": "full", "lr": 1e-3}


def cross_entropy(outputs: Any, batch: Mapping[str, Tensor | None]) -> Tensor:
    assert batch["labels"] is not None
    return functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def test_a_model_trains_in_memory_as_it_does_to_a_directory(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_model("llama")
    result = recover(model, tiny_tokenizer, **options)
    written = recover(tiny_model("llama"), tiny_tokenizer, tmp_path / "out", **options)
    assert result.model is model and result.output is None and written.output == tmp_path / "out"
    assert [step.get("loss") for step in result.history] == [step.get("loss") for step in written.history]
    assert not list((tmp_path / "temporary").iterdir()), "nothing is left behind"


def test_a_loss_of_ones_own_that_is_cross_entropy_trains_the_same(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any]
) -> None:
    own = recover(tiny_model("llama"), tiny_tokenizer, loss=cross_entropy, micro_batch_size=2, **options)
    usual = recover(tiny_model("llama"), tiny_tokenizer, micro_batch_size=2, **options)
    losses = [[step["loss"] for step in result.history if "loss" in step] for result in (own, usual)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_what_is_no_model_or_tokenizer_is_told(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any]
) -> None:
    named: Any = "out/model"
    with pytest.raises(InputError, match=r"a str and no model; give what secateur\.load returns"):
        recover(named, tiny_tokenizer, **options)
    swapped: Any = tiny_model("llama")
    with pytest.raises(InputError, match="tokenizer of recover is a LlamaForCausalLM and no tokenizer"):
        recover(tiny_model("llama"), swapped, **options)
    with pytest.raises(InputError, match="tokenizer= is None"):
        recover(tiny_model("llama"), None, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="teacher= is a int"):
        recover(tiny_model("llama"), tiny_tokenizer, teacher=5, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="less than or equal to 1000000000"):
        recover(tiny_model("llama"), tiny_tokenizer, max_minutes=1e308, **options)


def test_callbacks_are_told_and_may_stop(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any]
) -> None:
    class Stop(TrainerCallback):
        steps = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.steps += 1
            control.should_training_stop = self.steps == 2

    stop = Stop()
    result = recover(tiny_model("llama"), tiny_tokenizer, callbacks=[stop], **options)
    assert (stop.steps, result.steps) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("taught", [True, False])
def test_trackers_get_both_losses_by_two_names(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], taught: bool
) -> None:
    """What TensorBoard, wandb and trackio are given is what `on_log` is, under the names that Transformers makes."""

    class Tracker(TrainerCallback):
        names: ClassVar[set[str]] = set()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            self.names |= set(rewrite_logs(logs))

    given = {"teacher": tiny_model("llama", seed=1)} if taught else {}
    recover(tiny_model("llama"), tiny_tokenizer, callbacks=[Tracker()], val_size=4, **given, **options)
    losses = {name for name in Tracker.names if name.endswith(("cross_entropy", "kl_divergence"))}
    parts = ("cross_entropy", "kl_divergence") if taught else ("cross_entropy",)
    assert losses == {f"{kind}/{part}" for kind in ("train", "eval") for part in parts}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, _: outputs.logits.sum(-1), r"loss= gave \(2, 32\); it gives one number"),
        (lambda outputs, _: outputs.logits.sum().detach(), "without a gradient"),
        (lambda outputs, _: outputs.logits.argmax(), "a number of int64 on cpu"),
        (lambda outputs, _: outputs.logits.mean() * 1j, "a number of complex64 on cpu"),
        ("cross entropy", "loss= is a str"),
    ],
)
def test_what_is_no_loss_is_told(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], loss: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        recover(tiny_model("llama"), tiny_tokenizer, loss=loss, **options)


@pytest.mark.parametrize("callbacks", [print, [print], "abc", None, TrainerCallback()])
def test_what_are_no_callbacks_is_told(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], callbacks: Any
) -> None:
    with pytest.raises(InputError, match=r"callbacks= .*; give .*transformers.TrainerCallback"):
        recover(tiny_model("llama"), tiny_tokenizer, callbacks=callbacks, **options)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("problem", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_is_stopped_leaves_a_model_that_can_be_used(
    tiny_model: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    options: dict[str, Any],
    method: str,
    problem: type[BaseException],
) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            raise problem

    model = tiny_model("llama").bfloat16()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(problem):
        recover(model, tiny_tokenizer, callbacks=[Stop()], **{**options, "method": method})
    after = model.state_dict()
    assert after.keys() == before.keys() and not model.training
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert method == "full" or all(bool((after[name] == weight).all()) for name, weight in before.items())


def test_a_loss_that_is_not_finite_leaves_the_last_good_weights_in_the_model(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any]
) -> None:
    calls = 0

    def breaking(outputs: Any, batch: Mapping[str, Tensor | None]) -> Tensor:
        nonlocal calls
        calls += 1
        return cross_entropy(outputs, batch) * (torch.nan if calls > 4 else 1)

    model = tiny_model("llama")
    with pytest.raises(TrainingError, match=r"try a lower lr= \(now 0.001\) or max_grad_norm="):
        recover(model, tiny_tokenizer, loss=breaking, **options)
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
