"""An uneven model in a process that has no secateur: Transformers alone loads it and says the same."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.models import is_uneven, save
from secateur.pruning import prune

SCRIPT = """
import json, sys
sys.modules["secateur"] = None  # importing it fails, as where it is not installed
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
directory, prompt = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, dtype="float32")
inputs = tokenizer(prompt, return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0].tolist()
generator = pipeline("text-generation", model=directory, tokenizer=directory, trust_remote_code=True, dtype="float32")
text = generator(prompt, max_new_tokens=16, do_sample=False)[0]["generated_text"]
print("RESULT " + json.dumps({"tokens": tokens, "text": text, "class": type(model).__name__}))
"""


def test_loads_generates_and_serves_a_pipeline_without_secateur(
    tiny_model: Callable[..., PreTrainedModel], family: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny_model(family)
    prune(model, tiny_tokenizer, ratio=0.3, samples=6, seqlen=48)
    assert is_uneven(model)
    save(model, tiny_tokenizer, tmp_path / "pruned")
    prompt = "The for statement"
    inputs = tiny_tokenizer(prompt, return_tensors="pt")
    expected = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0].tolist()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "pruned"), prompt],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    # Transformers may write to the same line before it.
    result = json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])
    assert result["tokens"] == expected
    assert result["class"] == type(model).__name__
    assert result["text"] == tiny_tokenizer.decode(expected, skip_special_tokens=True)
