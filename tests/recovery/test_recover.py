"""Trainings on tiny models: what changes, what is written, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from secateur.errors import InputError, OutputError
from secateur.models import declare_widths, is_uneven
from secateur.models.widths import keep_columns, keep_rows
from secateur.recovery import RecoverConfig, RecoverResult, recover
from secateur.recovery.recover import REPORTERS

Train = Callable[..., RecoverResult]
TinyModel = Callable[..., PreTrainedModel]


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def make_uneven(model: PreTrainedModel) -> PreTrainedModel:
    """Layer 1 without its last KV group (2 of 8 query heads), layer 2 with 40 of 96 MLP channels."""
    attention, mlp = model.model.layers[1].self_attn, model.model.layers[2].mlp
    keep_rows(attention.q_proj, range(6 * 16))
    keep_rows(attention.k_proj, range(3 * 16))
    keep_rows(attention.v_proj, range(3 * 16))
    keep_columns(attention.o_proj, range(6 * 16))
    keep_rows(mlp.gate_proj, range(40))
    keep_rows(mlp.up_proj, range(40))
    keep_columns(mlp.down_proj, range(40))
    declare_widths(model)
    assert is_uneven(model)
    return model


@pytest.mark.slow
def test_lora_trains_only_the_adapter(train: Train, tiny_model: TinyModel) -> None:
    model = tiny_model()
    before = weights_of(model)
    result = train(model, epochs=3)
    assert isinstance(result.model, PeftModel)
    after = {name.replace(".base_layer", ""): weight for name, weight in weights_of(model).items()}
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert result.history[0]["step"] == 0
    assert result.history[-1]["eval_cross_entropy"] < result.history[0]["eval_cross_entropy"] - 0.1


def test_the_adapter_directory_is_peft_s(train: Train, tiny_model: TinyModel) -> None:
    result = train(tiny_model())
    files = {path.name for path in result.output.iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors"}
    assert files - {"adapter_config.json", "adapter_model.safetensors"} == {
        ".secateur.json",
        "lineage.json",
        "README.md",
        "recovery.json",
    }
    fresh = PeftModel.from_pretrained(tiny_model(), str(result.output)).eval()
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(fresh(tokens).logits, result.model(tokens).logits)


@pytest.mark.slow
def test_every_family_and_uneven_layers(train: Train, tiny_model: TinyModel, family: str) -> None:
    model = make_uneven(tiny_model(family))
    result = train(model, epochs=2, merge=True)
    loaded = AutoModelForCausalLM.from_pretrained(result.output)
    assert type(loaded) is type(model)
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(loaded(tokens).logits, result.model(tokens).logits)
    assert result.history[-1]["eval_cross_entropy"] < result.history[0]["eval_cross_entropy"]
    # The fine-tuned model trains on.
    again = train(loaded, "again", lora_target="q_proj,down_proj")
    assert isinstance(again.model, PeftModel)


def test_full_trains_everything(train: Train, tiny_model: TinyModel) -> None:
    model = tiny_model(tie_word_embeddings=False)
    before = weights_of(model)
    result = train(model, method="full", epochs=3, lr=1e-3)
    changed = {name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
    assert changed == set(before)
    assert result.history[-1]["eval_cross_entropy"] < result.history[0]["eval_cross_entropy"] - 0.3
    loaded = AutoModelForCausalLM.from_pretrained(result.output)
    assert all(torch.equal(weight, weights_of(model)[name]) for name, weight in loaded.state_dict().items())


def test_the_model_itself_stays_usable(train: Train, tiny_model: TinyModel) -> None:
    model = tiny_model()
    train(model, method="full")
    assert not model.training
    assert model.config.use_cache
    assert model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False).shape == (1, 5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_bfloat16_comes_back_as_bfloat16(train: Train, tiny_model: TinyModel, method: str) -> None:
    model = tiny_model().bfloat16()
    result = train(model, method=method, merge=method == "lora", epochs=2, lr=1e-3)
    assert result.history[-1]["eval_cross_entropy"] < result.history[0]["eval_cross_entropy"]
    assert AutoModelForCausalLM.from_pretrained(result.output).dtype == torch.bfloat16


@pytest.mark.slow
def test_a_step_does_not_depend_on_the_micro_batch(
    tmp_path: Path, private_cache: Path, tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Answers differ in length, so a mean of means would differ."""
    rows = [{"instruction": "Say it.", "input": "", "output": "word " * n} for n in range(1, 13)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    merged, losses = [], []
    for size in (1, 3, 6):
        result = recover(
            tiny_model(),
            tiny_tokenizer,
            tmp_path / f"out{size}",
            data=str(tmp_path / "rows.json"),
            seqlen=200,
            batch_size=6,
            micro_batch_size=size,
            val_size=0,
            epochs=2,
            merge=True,
        )
        merged.append(weights_of(result.model))
        losses.append([entry["loss"] for entry in result.history])
    for name, weight in merged[0].items():
        torch.testing.assert_close(merged[1][name], weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(merged[2][name], weight, rtol=1e-4, atol=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)


def test_the_first_loss_is_the_mean_over_scored_tokens(
    train: Train, tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerBase, story: Path
) -> None:
    text = story.read_text(encoding="utf-8")
    tokens = tiny_tokenizer(text, return_tensors="pt").input_ids[0, : 40 * 32].view(40, 32)
    with torch.no_grad():
        expected = float(tiny_model()(tokens, labels=tokens).loss)
    result = train(tiny_model(), batch_size=40, val_size=0)
    assert result.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(train: Train, tiny_model: TinyModel) -> None:
    runs = [train(tiny_model(), f"out{n}", lora_dropout=0.1, seed=seed) for n, seed in enumerate((1, 1, 2))]
    losses = [[entry["loss"] for entry in run.history[1:]] for run in runs]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.slow
def test_a_teacher_brings_the_student_nearer(
    train: Train, tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerBase, story: Path
) -> None:
    teacher = tiny_model()
    tokens = tiny_tokenizer(story.read_text(encoding="utf-8"), return_tensors="pt").input_ids[:, :128].view(4, 32)

    def divergence(model: Any) -> float:
        with torch.no_grad():
            own, other = model(tokens).logits.log_softmax(-1), teacher(tokens).logits.log_softmax(-1)
        return float(torch.nn.functional.kl_div(own, other, reduction="batchmean", log_target=True))

    def damaged() -> PreTrainedModel:
        model = tiny_model()
        torch.manual_seed(1)
        with torch.no_grad():
            for layer in model.model.layers:
                layer.mlp.down_proj.weight.mul_(torch.where(torch.rand(96) > 0.3, 1.0, 0.05))
        return model

    plain = train(damaged(), "plain", epochs=4)
    taught = train(damaged(), "taught", epochs=4, teacher=teacher, distill_weight=1.0)
    before, first, *_, last = taught.history
    assert before["eval_kl_divergence"] > 0 and last["eval_kl_divergence"] > 0
    assert last["loss"] == pytest.approx(last["kl_divergence"], rel=1e-4)
    assert last["kl_divergence"] < first["kl_divergence"] < last["cross_entropy"]
    assert plain.history[-1]["cross_entropy"] == pytest.approx(plain.history[-1]["loss"], rel=1e-5)
    assert not {"kl_divergence", "eval_kl_divergence"} & plain.history[-1].keys()
    assert divergence(taught.model) < divergence(damaged())
    assert divergence(taught.model) < divergence(plain.model)


@pytest.mark.slow
def test_remembering_the_teacher_changes_nothing(
    train: Train, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    teacher = tiny_model(seed=3)
    forward = teacher.model.forward
    monkeypatch.setattr(teacher.model, "forward", lambda **inputs: calls.append(1) or forward(**inputs))
    remembered = train(tiny_model(), "a", teacher=teacher, epochs=3, micro_batch_size=4)
    assert len(calls) == 8 + 2  # and of the windows to validate on
    monkeypatch.setattr("secateur.recovery.distillation.CACHE_BYTES", 0)
    repeated = train(tiny_model(), "b", teacher=teacher, epochs=3, micro_batch_size=4)
    assert len(calls) == 10 + 24 + 7 * 2
    losses = [[entry["loss"] for entry in run.history[1:]] for run in (remembered, repeated)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_numbers(train: Train, tiny_model: TinyModel) -> None:
    runs = [train(tiny_model(), f"out{on}", gradient_checkpointing=on) for on in (False, True)]
    assert runs[0].history[-1]["loss"] == pytest.approx(runs[1].history[-1]["loss"], rel=1e-5)


@pytest.mark.slow
def test_early_stopping_brings_the_best_weights_back(train: Train, tiny_model: TinyModel) -> None:
    result = train(tiny_model(), epochs=50, lr=0.5, early_stopping_patience=2, eval_steps=1, merge=True)
    evaluated = {
        entry["step"]: entry["eval_cross_entropy"] for entry in result.history if "eval_cross_entropy" in entry
    }
    assert result.steps < 400
    assert result.best_step == min(evaluated, key=lambda step: evaluated[step])
    assert result.steps == result.best_step + 2
    best = train(result.model, "check", epochs=0.1).history[0]["eval_cross_entropy"]
    assert best == pytest.approx(evaluated[result.best_step], rel=1e-4)


def test_extra_texts_are_measured_on_the_way(train: Train, tiny_model: TinyModel, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("0123456789" * 20, encoding="utf-8")
    result = train(tiny_model(), extra_eval=[str(other)], val_size=0)
    measured = [entry["perplexity"][str(other)] for entry in result.history if "perplexity" in entry]
    assert len(measured) == 4
    assert all(value > 1 for value in measured)


@pytest.mark.slow
def test_the_time_limit_stops(train: Train, tiny_model: TinyModel) -> None:
    result = train(tiny_model(), epochs=10_000, max_minutes=0.02)
    assert result.steps < 5_000
    assert result.history[-1]["learning_rate"] < 1e-4
    assert "eval_cross_entropy" in result.history[-1]


def test_the_record_beside_the_weights(train: Train, tiny_model: TinyModel, story: Path) -> None:
    result = train(tiny_model(), extras={"note.txt": "kept"})
    record = json.loads((result.output / "recovery.json").read_text(encoding="utf-8"))
    assert record["history"] == result.history
    assert record["settings"]["lr"] == RecoverConfig().learning_rate
    assert record["tokens"] == 32 * 32
    assert record["corpus"] == f"32 of 40 windows of {story.name}"
    assert (result.output / "note.txt").read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, "lr=0: .*greater than 0"),
        ({"lora_target": "atention"}, "lora_target 'atention' is unknown; use attention, mlp, or any of q_proj"),
        ({"lorar": 4}, "lorar"),
        ({"method": "full", "merge": True}, "merge is for method lora"),
        ({"val_size": 2.5}, "neither a share below 1 nor a whole number"),
        ({"val_size": 40}, "none is left to train on"),
    ],
)
def test_bad_settings_get_one_line(
    train: Train, tiny_model: TinyModel, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    model = tiny_model()
    with pytest.raises(InputError, match=message) as caught:
        train(model, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_a_reporter_that_is_not_installed_is_named(
    train: Train, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REPORTERS, "wandb", ("no_such_package",))
    with pytest.raises(InputError, match="report_to wandb needs a package; run: pip install no_such_package"):
        train(tiny_model(), report_to="wandb")


def test_a_teacher_with_another_vocabulary_is_refused(train: Train, tiny_model: TinyModel) -> None:
    with pytest.raises(InputError, match=r"the teacher has a vocabulary of 300 tokens and the model one of 259"):
        train(tiny_model(), teacher=tiny_model(vocab_size=300))


def test_float16_needs_a_gpu(train: Train, tiny_model: TinyModel) -> None:
    with pytest.raises(InputError, match="float16 cannot be trained on a CPU"):
        train(tiny_model().half())


@pytest.mark.slow
def test_an_output_in_use_is_refused(train: Train, tiny_model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="already holds something"):
        train(tiny_model())
    with pytest.raises(OutputError, match="was not written by secateur"):
        train(tiny_model(), overwrite=True)
    assert (tmp_path / "out" / "precious").exists()
    (tmp_path / "out" / "precious").unlink()
    train(tiny_model(), overwrite=True)
    assert train(tiny_model(), overwrite=True).steps
