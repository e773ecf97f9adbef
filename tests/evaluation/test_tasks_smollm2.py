"""A task of local files on SmolLM2 itself."""

import json
from pathlib import Path

import pytest

from secateur.evaluation import evaluate

FACTS = [
    ("The capital of France is", ["Paris", "Madrid", "Oslo"]),
    ("The opposite of hot is", ["cold", "green", "seven"]),
    ("Water freezes into", ["ice", "sand", "wool"]),
    ("A dog is a kind of", ["animal", "number", "river"]),
    ("The day after Monday is", ["Tuesday", "Friday", "Sunday"]),
    ("Bees make", ["honey", "paper", "glass"]),
    ("Two plus two is", ["four", "nine", "purple"]),
    ("At night the sky is", ["dark", "wooden", "salty"]),
    ("Fish live in", ["water", "books", "fire"]),
    ("We read with our", ["eyes", "shoes", "chairs"]),
]


@pytest.mark.real
def test_smollm2_knows_plain_facts(smollm2, tmp_path: Path, private_cache: Path) -> None:
    model, tokenizer = smollm2
    rows = [
        {"text": text, "choices": choices[turn:] + choices[:turn], "answer": (3 - turn) % 3}
        for turn, (text, choices) in ((number % 3, fact) for number, fact in enumerate(FACTS))
    ]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "facts.yaml").write_text(
        "task: facts\ndataset_path: json\ndataset_kwargs: {data_files: {test: facts.jsonl}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "{{text}}"\ndoc_to_choice: choices\ndoc_to_target: answer\n'
    )
    wanted = {"tasks": ["facts"], "include_path": str(tmp_path), "perplexity": False, "speed": False}
    score = evaluate(model, tokenizer, **wanted).tasks["facts"]
    assert score.metrics["acc"] >= 0.9
    assert score.n == len(FACTS)
