"""Uneven models of all families in one process that has no secateur."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from secateur.models import save, supported_model_types
from tiny import make_tiny_model, make_tiny_tokenizer
from uneven import cut_unevenly

TOKENS = torch.arange(3, 43)[None]
SCRIPT = """
import sys
sys.modules["secateur"] = None  # importing it fails, as where it is not installed
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
for directory in map(Path, sys.argv[1:]):
    expected = load_file(directory.with_suffix(".safetensors"))
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, dtype="float32")
    with torch.no_grad():
        logits = model(expected["tokens"]).logits
    assert torch.equal(logits, expected["logits"]), directory
    for use_cache in (True, False):
        written = model.generate(
            expected["tokens"], max_new_tokens=12, min_new_tokens=12, do_sample=False, use_cache=use_cache
        )
        assert torch.equal(written, expected["written"]), (directory, use_cache)
    print("RESULT", directory.name)
"""


@pytest.mark.slow
def test_every_family_loads_and_generates_without_secateur(tmp_path: Path) -> None:
    families = supported_model_types()
    for family in families:
        model = cut_unevenly(make_tiny_model(family))
        save(model, make_tiny_tokenizer(), tmp_path / family)
        with torch.no_grad():
            logits = model(TOKENS).logits
        written = model.generate(TOKENS, max_new_tokens=12, min_new_tokens=12, do_sample=False)
        save_file({"tokens": TOKENS, "logits": logits, "written": written}, tmp_path / f"{family}.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(str(tmp_path / family) for family in families)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("RESULT")] == families
