"""The task of the examples on SmolLM2 itself."""

from pathlib import Path

import pytest

from secateur.evaluation import evaluate

TASKS = Path(__file__).parents[2] / "examples" / "tasks"


@pytest.mark.real
def test_smollm2_knows_plain_facts(smollm2, private_cache: Path) -> None:
    model, tokenizer = smollm2
    wanted = {"tasks": ["facts"], "include_path": str(TASKS), "perplexity": False, "speed": False}
    score = evaluate(model, tokenizer, **wanted).tasks["facts"]
    assert score.n == 24
    assert score.metrics["acc"] >= 0.8  # a guess is right in a third
