"""A family of another package: found by its entry point, used by the command line, loaded again with and without."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import secateur

PACKAGE = Path(__file__).parents[1] / "outside_family"
TEXT = " ".join(f"{number} squared is {number * number}." for number in range(300))
MAKE = """
import torch
import brook
from brook import BrookConfig, BrookForCausalLM
from tiny import make_tiny_tokenizer
torch.manual_seed(0)
config = BrookConfig(
    vocab_size=259, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=8,
    num_key_value_heads=4, head_dim=16, max_position_embeddings=256, initializer_range=0.1, bos_token_id=256,
    eos_token_id=257, pad_token_id=258,
)
BrookForCausalLM(config).save_pretrained("brook-model")
make_tiny_tokenizer().save_pretrained("brook-model")
"""
COMMANDS = """
prune brook-model -o pruned --ratio 0.25 --attention-share 0.4 --calibration text.txt
prune brook-model -o streamed --ratio 0.25 --attention-share 0.4 --calibration text.txt --stream
prune brook-model -o even --ratio 0.25 --even --calibration text.txt
sparsify pruned -o sparse --calibration text.txt
recover pruned -o recovered --data text.txt --val-size 0 --merge
recover sparse -o adapter --method lora --seqlen 32 --data text.txt --val-size 0
"""
RUN = """
import sys
from secateur.cli.main import app
for line in sys.stdin.read().strip().splitlines():
    options = ["--samples", "4", "--seqlen", "32", "--device", "cpu", "--dtype", "float32"]
    if "--calibration" in line:
        options += ["--own-text", "0"]
    try:
        app([*line.split(), *options])
    except SystemExit as end:
        assert not end.code, line
"""
USE = """
import torch
import secateur
from secateur.models import is_uneven
tokens = torch.arange(3, 40)[None]
assert type(secateur.load("even", dtype="float32")[0]).__name__ == "BrookForCausalLM"
model, tokenizer = secateur.load("pruned", dtype="float32")
assert is_uneven(model) and type(model).__name__ == "UnevenBrookForCausalLM"
assert secateur.diagnose(model).problems == []
streamed, _ = secateur.load("streamed", dtype="float32")
assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), streamed.parameters(), strict=True))
secateur.save(model, tokenizer, "again")
again, _ = secateur.load("again", dtype="float32")
torch.save(model(tokens).logits.detach(), "logits.pt")
assert torch.equal(again(tokens).logits, model(tokens).logits)
cached, plain = (
    model.generate(tokens, max_new_tokens=12, min_new_tokens=12, do_sample=False, use_cache=use_cache)
    for use_cache in (True, False)
)
assert torch.equal(cached, plain)
"""
WITHOUT = """
import sys
sys.modules["secateur"] = None
import torch
import brook
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("again", trust_remote_code=True, dtype="float32")
assert torch.equal(model(torch.arange(3, 40)[None]).logits, torch.load("logits.pt"))
"""


def install(directory: Path) -> None:
    """What pip writes beside an installed package: its name and its entry points."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    info = directory / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())])
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups) + "\n")


@pytest.mark.slow
def test_a_family_of_another_package(tmp_path: Path, private_cache: Path) -> None:
    (tmp_path / "site").mkdir()
    install(tmp_path / "site")
    (tmp_path / "text.txt").write_text(TEXT)
    paths = [tmp_path / "site", PACKAGE, PACKAGE.parent, Path(secateur.__file__).parents[1]]
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, paths)), "OMP_NUM_THREADS": "1"}

    def python(script: str, given: str = "") -> None:
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=given,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    python(MAKE)
    python(RUN + USE, COMMANDS)
    python(WITHOUT)
