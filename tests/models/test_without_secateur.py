"""Uneven models in a process that has no secateur: Transformers alone loads them and says the same."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.models import is_uneven, save
from secateur.pruning import prune

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
SCRIPT = """
import json, sys
sys.modules["secateur"] = None  # importing it fails, as where it is not installed
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
prompt, *directories = sys.argv[1:]
for directory in directories:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, dtype="float32")
    inputs = tokenizer(prompt, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0].tolist()
    generator = pipeline(
        "text-generation", model=directory, tokenizer=directory, trust_remote_code=True, dtype="float32"
    )
    text = generator(prompt, max_new_tokens=16, do_sample=False)[0]["generated_text"]
    print("RESULT " + json.dumps({"tokens": tokens, "text": text, "class": type(model).__name__}))
"""


@pytest.mark.slow
def test_every_family_loads_generates_and_serves_a_pipeline_without_secateur(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    prompt = "The for statement"
    inputs = tiny_tokenizer(prompt, return_tensors="pt")
    models = {}
    for family in FAMILIES:
        models[family] = tiny_model(family)
        prune(models[family], tiny_tokenizer, ratio=0.3, samples=6, seqlen=48)
        assert is_uneven(models[family])
        save(models[family], tiny_tokenizer, tmp_path / family)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, prompt, *(str(tmp_path / family) for family in FAMILIES)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    # Transformers may write to the same line before it.
    results = [json.loads(part.splitlines()[0]) for part in done.stdout.split("RESULT ")[1:]]
    for (family, model), result in zip(models.items(), results, strict=True):
        expected = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0].tolist()
        assert result["tokens"] == expected, family
        assert result["class"] == type(model).__name__
        assert result["text"] == tiny_tokenizer.decode(expected, skip_special_tokens=True), family
