"""One sound file of each kind, made by secateur's own commands from a tiny random model."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from fuzz.commands import run_command
from tiny import make_tiny_model, make_tiny_tokenizer

WORDS = "The quick brown fox jumps over the lazy dog and runs on through 3 woods, 2 fields and a stream. "
ON_CPU = ("--device", "cpu", "--dtype", "float32")
CUT = ("--samples", "2", "--seqlen", "32", "--own-text", "0", "--calibration", "text.txt", *ON_CPU)
RECIPE = """\
name: small
model: model
device: cpu
dtype: float32
prune: {ratio: 0.2, samples: 2, seqlen: 32, own_text: 0, layer_importance_samples: 1, calibration: text.txt}
sparsify: {sparsity: 0.5, samples: 2, seqlen: 32, calibration: text.txt}
evaluate: {data: [text.txt], windows: 1, seqlen: 32, speed: false}
samples: {prompts: [Once], max_new_tokens: 2}
"""
TASK = """\
task: sums
dataset_path: json
dataset_kwargs:
  data_files: {test: sums.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
num_fewshot: 1
fewshot_split: test
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
generation_kwargs: {until: ["."], max_gen_toks: 4}
filter_list:
  - {name: none, filter: [{function: take_first}]}
metadata: {version: 1}
"""
LONG_RANGE = """\
dataset: {test: 8}
model: {embedding_dim: 16, transformer_dim: 16, transformer_hidden_dim: 16, head_dim: 8, max_seq_len: 64, block_size: 8}
training: {batch_size: 4, warmup: 1, eval_frequency: 2, num_train_steps: 4, num_init_steps: 1, num_dense_train_steps: 2}
"""
PREPARED = ("--max-length", "64", "--train", "16", "--dev", "8", "--test", "8")
LONG_RANGE_RUN = ("--task", "listops", "-o", "long", "--data", "data", "--device", "cpu")


def make_samples(root: Path) -> None:
    """Fill a directory with all that `kinds.KINDS` names. Raises `RuntimeError` where a command fails."""
    os.chdir(root)
    Path("text.txt").write_text(WORDS * 60)
    _model(Path("model"), max_shard_size="1GB")
    _model(Path("sharded"), max_shard_size="40KB")
    Path("small.yaml").write_text(RECIPE)
    Path("long.yaml").write_text(LONG_RANGE)
    Path("tasks").mkdir()
    Path("tasks/sums.yaml").write_text(TASK)
    rows = [{"question": f"{i} + {i} is", "choices": [str(2 * i), "no"], "answer": i % 2} for i in range(6)]
    Path("tasks/sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("lines.jsonl").write_text("".join(json.dumps({"text": WORDS * 4}) + "\n" for _ in range(12)))
    _adapter(Path("adapter"))
    small = ("--data", "text.txt", "--windows", "1", "--seqlen", "32", "--no-speed", *ON_CPU)
    tuned = ("--data", "text.txt", "--samples", "1", "--seqlen", "256", "--query-block", "16", "--key-block", "16")
    for command in (
        ("export", "model", "-o", "tiny.gguf"),
        ("attention", "tune", "model", "-o", "profile.safetensors", *tuned, *ON_CPU),
        ("prune", "model", "-o", "pruned", "--ratio", "0.2", "--layer-importance-samples", "1", *CUT),
        ("sparsify", "model", "-o", "sparse", "--sparsity", "0.5", *CUT[:4], *CUT[6:]),
        ("evaluate", "model", *small, "--json", "first.json"),
        ("evaluate", "pruned", *small, "--json", "second.json"),
        ("run", "small.yaml", "-o", "run"),
        ("sweep", "small.yaml", "-o", "sweep", "--set", "prune.ratio=0.2,0.3"),
        ("longrange", "prepare", "listops", "-o", "data", *PREPARED),
        ("longrange", "train", *LONG_RANGE_RUN, "--config", "long.yaml"),
    ):
        outcome = run_command(command)
        if outcome.status != 0:
            raise RuntimeError(f"secateur {' '.join(command)}: {outcome.error or outcome.messages}")


def _model(directory: Path, max_shard_size: str) -> None:
    sizes = {"vocab_size": 261, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    model = make_tiny_model("llama", num_attention_heads=4, num_key_value_heads=2, **sizes)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    make_tiny_tokenizer([("t", "h"), ("th", "e")]).save_pretrained(directory)


def _adapter(directory: Path) -> None:
    directory.mkdir()
    weights = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": torch.full(shape, 0.01)
        for layer in range(2)
        for side, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    save_file(weights, directory / "adapter_model.safetensors", {"format": "pt"})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
