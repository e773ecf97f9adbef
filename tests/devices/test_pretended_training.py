"""Training on pretended devices, and what it leaves merged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretended import places
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur

Models = Callable[..., PreTrainedModel]

QUICK = {"samples": 8, "seqlen": 32, "val_size": 2, "batch_size": 4, "micro_batch_size": 2, "eval_steps": 2}

pytestmark = pytest.mark.usefixtures("pretending")


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(" ".join(map(str, range(400))), encoding="utf-8")
    return str(tmp_path / "text.txt")


@pytest.mark.parametrize(
    ("sparse", "options"),
    [
        (False, {"method": "full"}),
        (False, {"method": "lora", "merge": True}),
        (False, {"method": "lora", "epochs": 2.0}),
        (True, {"method": "masked"}),
        (True, {"method": "masked-lora", "gradient_checkpointing": True}),
    ],
    ids=["full", "merged", "taught", "masked", "masked-lora"],
)
def test_recover(
    placed: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    text: str,
    sparse: bool,
    options: dict[str, Any],
) -> None:
    model, teacher = placed(), placed() if "epochs" in options else None
    before = places(model)
    if sparse:
        secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, method="magnitude")
    result = secateur.recover(
        model, tiny_tokenizer, tmp_path / "out", data=text, teacher=teacher, **QUICK, **options
    )
    assert result.history[-1]["eval_loss"] < result.history[0]["eval_loss"]
    assert places(model).items() >= before.items() or options["method"] == "lora"
