"""Training in two processes gives what one process gives."""

import hashlib
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.errors import InputError
from secateur.models import load, save
from secateur.pruning import prune
from secateur.recovery import recover, sharding
from secateur.sparsity import sparsify

TinyModel = Callable[..., PreTrainedModel]
Together = Callable[..., Any]

WORKER = Path(__file__).with_name("trainings.py")
# Batches of 5 windows are shared as 3 and 2, in parts of 2; the 7 for validation as 4 and 3.
SETTINGS = {"seqlen": 32, "batch_size": 5, "micro_batch_size": 2, "val_size": 7, "eval_steps": 3}
FULL = {"method": "full", "lr": 1e-3}
LORA = {"method": "lora", "lora_r": 4}
# The model, its settings, and whether it is sharded.
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "full": ("uneven", FULL, False),
    "full, sharded": ("uneven", FULL, True),
    "stopped in one process": ("uneven", {**FULL, "checkpoint_steps": 2}, False),
    "stopped, then sharded": ("uneven", {**FULL, "checkpoint_steps": 2}, True),
    "stopped, sharded before": ("uneven", {**FULL, "checkpoint_steps": 2}, True),
    "best at first, sharded": ("uneven", {**FULL, "lr": 1.0, "max_grad_norm": 100.0}, True),
    "lora": ("uneven", {**LORA, "gradient_checkpointing": True}, False),
    "lora, sharded": ("uneven", LORA, True),
    "merged, sharded": ("uneven", {**LORA, "merge": True}, True),
    "masked": ("sparse", {"method": "masked", "lr": 1e-3}, False),
    "masked, sharded": ("sparse", {"method": "masked", "lr": 1e-3, "gradient_checkpointing": True}, True),
    "masked-lora": ("sparse", {"method": "masked-lora", "lora_target": "mlp"}, False),
    "masked-lora, sharded": ("sparse", {"method": "masked-lora", "lora_target": "mlp"}, True),
    "taught": ("uneven", {**LORA, "epochs": 2.0, "max_minutes": 1000.0}, False),
    "fewer windows than processes, sharded": ("uneven", {**FULL, "batch_size": 1, "samples": 12}, True),
}
STOP = 5


@pytest.fixture
def models(
    tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerBase, story: Path, tmp_path: Path
) -> dict[str, Path]:
    """A tiny model, one with layers of different widths, and one with zeros."""
    text = {"calibration": str(story), "samples": 4, "seqlen": 32}
    uneven, sparse = tiny_model(), tiny_model()
    prune(uneven, tiny_tokenizer, ratio=0.2, **text)
    sparsify(sparse, tiny_tokenizer, **text)
    made = {"whole": tiny_model(), "uneven": uneven, "sparse": sparse}
    return {name: save(model, tiny_tokenizer, tmp_path / name) for name, model in made.items()}


def weights_of(directory: Path) -> dict[str, Tensor]:
    (file,) = directory.glob("*.safetensors")
    return load_file(file)


def history_of(directory: Path) -> list[dict[str, float]]:
    return list(json.loads((directory / "recovery.json").read_text(encoding="utf-8"))["history"])


@pytest.mark.slow
def test_two_processes_train_as_one_does(
    models: dict[str, Path], story: Path, tmp_path: Path, two_processes: Together
) -> None:
    train = runpy.run_path(str(WORKER))["train"]
    cases, expected = [], {}
    for name, (model, own, sharded) in CASES.items():
        options = {"data": str(story), **SETTINGS, **own}
        if name == "taught":
            options["teacher"] = str(models["whole"])
        case: dict[str, Any] = {"model": str(models[model]), "dtype": "float32", "options": options}
        case |= {"output": str(tmp_path / "two" / name), "goes": [{"fsdp": sharded}]}
        if "stopped" in name:
            before = {"stop": STOP, "fsdp": "sharded before" in name}
            if name == "stopped in one process":
                train(case, **before)
            else:
                case["goes"].insert(0, before)
        cases.append(case)
        alone = {key: value for key, value in options.items() if key != "checkpoint_steps"}
        expected[name] = tmp_path / "one" / hashlib.sha256(repr((model, alone)).encode()).hexdigest()
        if not expected[name].exists():
            recover(*load(models[model], dtype="float32"), expected[name], **alone)
    diverging = {**cases[0], "output": str(tmp_path / "two" / "diverging")}
    cases.append({**diverging, "goes": [{"fsdp": True, "poisoned": STOP}]})
    (tmp_path / "cases.json").write_text(json.dumps(cases), encoding="utf-8")

    for process in two_processes(WORKER, tmp_path / "cases.json"):
        assert process.returncode == 0, process.stderr
    first = json.loads((expected["best at first, sharded"] / "recovery.json").read_text(encoding="utf-8"))
    assert first["best_step"] == 0, "this training must make the model worse"
    for name in CASES:
        one, two = weights_of(expected[name]), weights_of(tmp_path / "two" / name)
        assert one.keys() == two.keys(), name
        for weight in one:
            difference = float((two[weight] - one[weight]).norm() / one[weight].norm().clamp_min(1e-6))
            assert difference < 1e-4, (name, weight)
            if "proj" in weight:
                assert torch.equal(two[weight] == 0, one[weight] == 0), name
        compared = 2 if name.startswith("best at first") else None  # then it runs away, and rounding with it
        histories = (history_of(place)[:compared] for place in (expected[name], tmp_path / "two" / name))
        for entry, other in zip(*histories, strict=True):
            assert entry == pytest.approx(other, rel=1e-3), name
        assert not (tmp_path / "two" / f"{name}.partial").exists()
    message = (tmp_path / "two" / "diverging.error").read_text(encoding="utf-8")
    assert f"stopped at step {STOP + 1}: the loss is nan; the last good weights are in" in message
    model, _ = load(tmp_path / "two" / "diverging.last-good")
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    assert not (tmp_path / "two" / "diverging.partial").exists()


def test_one_process_shards_nothing(models: dict[str, Path], story: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="start them with torchrun"):
        recover(*load(models["uneven"]), tmp_path / "out", data=str(story), fsdp=True)


@pytest.mark.parametrize(
    ("options", "dtype", "message"),
    [
        ({"load_in_8bit": True, "method": "lora"}, "float32", "fsdp cannot spread weights in 8 bits"),
        ({}, "float16", "fsdp does not train in float16"),
    ],
)
def test_what_cannot_be_sharded(
    models: dict[str, Path],
    story: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    dtype: Any,
    message: str,
) -> None:
    monkeypatch.setattr(sharding, "process_count", lambda: 2)
    with pytest.raises(InputError, match=message):
        recover(*load(models["uneven"], dtype=dtype), tmp_path / "out", data=str(story), fsdp=True, **options)
