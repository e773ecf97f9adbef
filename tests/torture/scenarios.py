"""The commands that write, on a model of two layers, with what they need."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tiny import make_tiny_model, make_tiny_tokenizer
from torture.kills import Scenario

MODEL, TEXT = "../inputs/tiny", "../inputs/text.txt"
CPU = ("--device", "cpu")
LITTLE = ("--samples", "2", "--seqlen", "16", *CPU)
PRUNE = ("prune", MODEL, "-o", "out", "--ratio", "0.2", "--calibration", TEXT, "--own-text", "0", *LITTLE)
SPARSIFY = ("sparsify", MODEL, "-o", "out", "--method", "magnitude", *CPU)
RECOVER = (
    *("recover", MODEL, "-o", "out", "--data", TEXT, "--samples", "6", "--seqlen", "16", "--batch-size", "2"),
    *("--val-size", "0.2", "--checkpoint-steps", "1", "--eval-steps", "1", *CPU),
)
MERGE = ("merge", MODEL, "--adapter", "../inputs/adapter", "-o", "out", *CPU)
SEARCH = (
    *("search", MODEL, "-o", "out", "--ratio", "0.2", "--calibration", TEXT, "--rounds", "2", "--measured", "1"),
    *("--own-text", "0", *LITTLE),
)
EXPORT = ("export", MODEL, "-o", "model.gguf")
TUNE = (
    *("attention", "tune", MODEL, "-o", "profile.safetensors", "--data", TEXT, "--samples", "1", "--seqlen", "256"),
    *("--l1", "0.3", "--pv-l1", "0.4", "--query-block", "16", "--key-block", "16", *CPU),
)
PREPARE = ("longrange", "prepare", "listops", "-o", "data", "--max-length", "64", "--train", "12", "--dev", "4")
PREPARE = (*PREPARE, "--test", "4")
TRAIN = (
    *("longrange", "train", "--task", "listops", "-o", "runs", "--data", "../inputs/listops"),
    *("--config", "../inputs/small.yaml", *CPU),
)
RUN = ("run", "../inputs/recipe.yaml", "-o", "runs/demo")
LONG = ("run", "../inputs/long.yaml", "-o", "runs/long")
SWEEP = ("sweep", "../inputs/measure.yaml", "--set", "samples.max_new_tokens=1,2", "-o", "swept")
CELLS = ("swept/samples.max_new_tokens=1", "swept/samples.max_new_tokens=2")

SMALL = """\
model: {embedding_dim: 16, transformer_dim: 16, transformer_hidden_dim: 32, head_dim: 8, num_layers: 2,
  max_seq_len: 64, block_size: 8, density: 0.3}
training: {batch_size: 4, warmup: 1, eval_frequency: 2, num_train_steps: 4, num_init_steps: 1,
  num_dense_train_steps: 2, num_eval_steps: 1}
"""
MEASURE_RECIPE = f"""\
name: little
model: {MODEL}
device: cpu
evaluate: {{data: [{TEXT}], windows: 1, seqlen: 16, speed: false}}
samples: {{prompts: [one]}}
"""
RECIPE = f"""\
{MEASURE_RECIPE}
prune: {{calibration: {TEXT}, samples: 2, seqlen: 16, own_text: 0, layer_importance_samples: 1}}
search: {{calibration: {TEXT}, samples: 2, seqlen: 16, ratio: 0.2, own_text: 0, rounds: 1, measured: 1}}
recover: {{data: {TEXT}, samples: 4, seqlen: 16, batch_size: 2, val_size: 0, checkpoint_steps: 1}}
export: {{}}
"""
LONG_RECIPE = f"""\
name: long
longrange:
  task: listops
  prepare: {{max_length: 64, train: 12, dev: 4, test: 4}}
  options:
{"".join(f"    {line}" + chr(10) for line in SMALL.splitlines())}
  train: {{device: cpu}}
  modes: [sparse]
"""


def again(command: tuple[str, ...], *options: str) -> tuple[str, ...]:
    return (*command, *options, "--overwrite")


SCENARIOS = (
    Scenario("prune", PRUNE, ["out"]),
    Scenario("prune --overwrite", again(PRUNE), ["out"], [SPARSIFY]),
    Scenario("sparsify", SPARSIFY, ["out"]),
    Scenario("sparsify --overwrite", again(SPARSIFY), ["out"], [PRUNE]),
    Scenario("recover", RECOVER, ["out"]),
    Scenario("recover --merge --overwrite", again(RECOVER, "--merge"), ["out"], [RECOVER]),
    Scenario("merge", MERGE, ["out"]),
    Scenario("merge --overwrite", again(MERGE), ["out"], [PRUNE]),
    Scenario("search", SEARCH, ["out"]),
    Scenario("search --overwrite", again(SEARCH), ["out"], [PRUNE]),
    Scenario("export", EXPORT, ["model.gguf"]),
    Scenario("export --overwrite", again(EXPORT, "--dtype", "bf16"), ["model.gguf"], [EXPORT]),
    Scenario("attention tune", TUNE, ["profile.safetensors"]),
    Scenario("attention tune --overwrite", again(TUNE, "--layers", "0:1"), ["profile.safetensors"], [TUNE]),
    Scenario("longrange prepare", PREPARE, ["data"], grows=True),
    Scenario("longrange prepare --overwrite", again(PREPARE, "--seed", "1"), ["data"], [PREPARE]),
    Scenario("longrange train", TRAIN, ["runs/sat"], grows=True),
    Scenario("longrange train --overwrite", again(TRAIN, "--seed", "1"), ["runs/sat"], [TRAIN]),
    Scenario("run", RUN, ["runs/demo"], grows=True),
    Scenario("run --overwrite", again(RUN), ["runs/demo"], [RUN]),
    Scenario("run (longrange)", LONG, ["runs/long"], grows=True),
    Scenario("run (longrange) --overwrite", again(LONG), ["runs/long"], [LONG]),
    Scenario("sweep", SWEEP, CELLS, grows=True),
    Scenario("sweep --overwrite", again(SWEEP), CELLS, [SWEEP]),
)


def make_inputs(root: Path, run: Callable[[Sequence[str]], None]) -> None:
    """Write what the commands read to `root/inputs`.

    Args:
        root: the directory.
        run: runs a command in `root/work`.
    """
    inputs = root / "inputs"
    make_tiny_model(num_hidden_layers=2, vocab_size=260).save_pretrained(inputs / "tiny")
    make_tiny_tokenizer([("q", "u")]).save_pretrained(inputs / "tiny")  # llama.cpp needs a merge
    (inputs / "text.txt").write_text(" ".join(f"{number} squared is {number * number}." for number in range(100)))
    (inputs / "small.yaml").write_text(SMALL)
    for name, text in (("recipe", RECIPE), ("measure", MEASURE_RECIPE), ("long", LONG_RECIPE)):
        (inputs / f"{name}.yaml").write_text(text)
    (root / "work").mkdir()
    run((*RECOVER[:3], "../inputs/adapter", *RECOVER[4:]))
    run((*PREPARE[:4], "../inputs/listops", *PREPARE[5:]))
    assert json.loads((inputs / "listops" / "meta.json").read_text())["task"] == "listops"
