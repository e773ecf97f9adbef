"""Training on pretended devices, and what it leaves merged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretended import places, two_gpus
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur

Models = Callable[..., PreTrainedModel]

QUICK = {"samples": 4, "seqlen": 32, "val_size": 1, "batch_size": 3, "micro_batch_size": 2}

pytestmark = pytest.mark.usefixtures("pretending")


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(" ".join(map(str, range(400))), encoding="utf-8")
    return str(tmp_path / "text.txt")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
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
    tied: bool,
    tiny_model: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    text: str,
    sparse: bool,
    options: dict[str, Any],
) -> None:
    model, teacher = (two_gpus(tiny_model(tie_word_embeddings=tied, num_hidden_layers=2)) for _ in range(2))
    before = places(model)
    if sparse:
        secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, method="magnitude")
    taught = {"teacher": teacher} if "epochs" in options else {}
    result = secateur.recover(model, tiny_tokenizer, tmp_path / "out", data=text, **taught, **QUICK, **options)
    assert result.history[-1]["eval_cross_entropy"] < result.history[0]["eval_cross_entropy"]
    trained = places(result.model)
    assert set(trained.values()) == set(before.values())
    assert trained == before or result.method == "lora"
