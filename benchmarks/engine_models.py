"""The models that benchmarks/engines.py opens, and what Transformers makes of them."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

import common
import secateur
from secateur.errors import SecateurError

sys.path.append(str(common.ROOT / "tests"))
from tiny import make_tiny_model, make_tiny_tokenizer
from uneven import cut_unevenly

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
MERGES = [("t", "h")]  # llama.cpp wants one
# Key/value heads and MLP channels of the layers. vLLM on CPUs takes heads of 32 and its multiples.
SHAPE = {
    "vocab_size": 259 + len(MERGES),
    "hidden_size": 256,
    "head_dim": 32,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
CUTS = {
    "even": [(2, 160)] * 4,
    "mlp": [(4, 192), (4, 160), (4, 33), (4, 96)],
    "both": [(4, 192), (3, 160), (1, 33), (2, 96)],
}
TINY = [f"{family}-{kind}" for family in FAMILIES for kind in (*CUTS, "tied")] + ["llama-recovered"]
NEMOTRON = ("llama-nemotron-nas", "smollm2-nemotron-nas")
SMOLLM2 = ("smollm2", "smollm2-even", "smollm2-pruned")
FOUR_BITS = ("llama-4-bit", "llama-4-bit-mlp", "llama-4-bit-both", "smollm2-4-bit")
# Cuts whose widths groups of 32 divide.
ROUNDED_CUTS = {
    "llama-4-bit": CUTS["even"],
    "llama-4-bit-mlp": [(4, 192), (4, 160), (4, 32), (4, 96)],
    "llama-4-bit-both": [(4, 192), (3, 160), (1, 32), (2, 96)],
}
NAMES = [*TINY, *SMOLLM2, *NEMOTRON, *FOUR_BITS]
TEXTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "def fibonacci(n):",
    "Once upon a time there was",
    "The for statement is used to iterate over",
)
NEW_TOKENS = 32


@dataclass(frozen=True)
class Expected:
    """What Transformers, in float32, makes of a model."""

    prompts: list[list[int]]
    tokens: list[list[int]]
    log_probabilities: list[list[float]]


def made(names: Sequence[str], directory: Path, ratio: float, seed: int) -> dict[str, Path]:
    """The directories of the models, made where they are missing; without those of a format that secateur lacks."""
    makers: dict[str, Callable[[Path], None]] = {
        **{name: lambda path, name=name: make_tiny(name, path) for name in TINY},
        **{name: lambda path, name=name: make_smollm2(name, path, ratio, seed) for name in SMOLLM2},
        **{name: lambda path, name=name: make_nemotron_nas(name, path, ratio, seed) for name in NEMOTRON},
        **{name: lambda path, name=name: make_four_bits(name, path, ratio, seed) for name in FOUR_BITS},
    }
    paths = {}
    for name in names:
        path = directory / "models" / name
        try:
            if not (path / "config.json").is_file():
                makers[name](path)
            paths[name] = path
        except (subprocess.CalledProcessError, SecateurError, ValueError) as error:
            log(f"{name} cannot be made: {last_line(error)}")
    return paths


def make_tiny(name: str, path: Path) -> None:
    family, kind = name.split("-")
    model = make_tiny_model(family, intermediate_size=192, tie_word_embeddings=kind == "tied", **SHAPE)
    cut_unevenly(model, CUTS.get(kind, CUTS["both"]))
    tokenizer = make_tiny_tokenizer(MERGES)
    tokenizer.unk_token = tokenizer.pad_token  # CTranslate2 opens no Mistral or Qwen without one
    if kind == "recovered":
        quick = {"samples": 8, "seqlen": 32, "batch_size": 4, "val_size": 0}
        secateur.recover(model, tokenizer, path, merge=True, overwrite=True, **quick)
    else:
        secateur.save(model, tokenizer, path)


def make_smollm2(name: str, path: Path, ratio: float, seed: int, **options: Any) -> None:
    model, tokenizer = secateur.load("smollm2-135m", dtype="float32", device="cpu")
    if name != "smollm2":
        # How good the cut is does not matter here, so that it is a quick one.
        quick = {"samples": 8, "seqlen": 128, "own_text": 0, "importance": "activation"}
        settings = {**quick, "even": name == "smollm2-even", **options}
        secateur.prune(model, tokenizer, ratio=ratio, seed=seed, **settings)
    secateur.save(model, tokenizer, path)


def make_nemotron_nas(name: str, path: Path, ratio: float, seed: int) -> None:
    """A cut of the MLP only to widths that 256 divides, exported as Nemotron's."""
    cut = path.with_name(f"{name}-cut")
    if name == "llama-nemotron-nas":
        model = make_tiny_model("llama", intermediate_size=768, tie_word_embeddings=False, **SHAPE)
        cut_unevenly(model, [(4, 768), (4, 256), (4, 512), (4, 256)])
        secateur.save(model, make_tiny_tokenizer(MERGES), cut)
    else:
        make_smollm2(name, cut, ratio, seed, target="mlp", channel_multiple=256)
    export(cut, path, "--format", "nemotron-nas")


def make_four_bits(name: str, path: Path, ratio: float, seed: int) -> None:
    """A cut whose weights are rounded to 4 bits."""
    if name.startswith("llama"):
        model = make_tiny_model("llama", intermediate_size=192, **SHAPE)
        model, tokenizer = cut_unevenly(model, ROUNDED_CUTS[name]), make_tiny_tokenizer(MERGES)
    else:
        cut = path.with_name(f"{name}-cut")
        make_smollm2(name, cut, ratio, seed, even=True, channel_multiple=128)
        model, tokenizer = secateur.load(cut, dtype="float32", device="cpu")
    secateur.quantize(model, tokenizer, windows=8, seqlen=128, own_text=0)
    secateur.save(model, tokenizer, path)


def export(model: Path, output: Path, *options: str) -> None:
    command = [sys.executable, "-m", "secateur", "export", str(model), "-o", str(output), "--overwrite", *options]
    subprocess.run(command, check=True, capture_output=True, text=True)


def expected(name: str, path: Path) -> Expected:
    """What Transformers makes of the prompts, kept beside the model."""
    kept = path.parent.parent / "expected" / f"{name}.json"
    if kept.is_file():
        return Expected(**json.loads(kept.read_text(encoding="utf-8")))
    # Nemotron's class is in no release of Transformers; the model it was exported from has the same weights.
    source = path.with_name(f"{name}-cut") if name in NEMOTRON else path
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    found = expected_of(model, prompts_of(name, source))
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(asdict(found)), encoding="utf-8")
    return found


def prompts_of(name: str, path: Path) -> list[list[int]]:
    """Five: of text for SmolLM2, of random tokens for the tiny models."""
    if name.startswith("smollm2"):
        _, tokenizer = secateur.load(str(path), device="cpu")
        return [tokenizer(text).input_ids for text in TEXTS]
    generator = random.Random(0)
    return [[generator.randrange(250) for _ in range(length)] for length in (6, 9, 12, 16, 24)]


@torch.no_grad()
def expected_of(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Expected:
    found = Expected([list(prompt) for prompt in prompts], [], [])
    for prompt in prompts:
        inputs = torch.tensor([prompt])
        answer = model(inputs, use_cache=True)
        rows = answer.logits[0].log_softmax(-1)
        found.log_probabilities.append(rows[:-1].gather(-1, inputs[0, 1:, None])[:, 0].tolist())
        tokens = [int(answer.logits[0, -1].argmax())]
        while len(tokens) < NEW_TOKENS:
            answer = model(torch.tensor([tokens[-1:]]), past_key_values=answer.past_key_values)
            tokens.append(int(answer.logits[0, -1].argmax()))
        found.tokens.append(tokens)
    return found


@torch.no_grad()
def chat_answer(path: Path, question: str, new_tokens: int) -> str:
    """What Transformers answers to a question in the tokenizer's chat template."""
    model, tokenizer = secateur.load(str(path), dtype="float32", device="cpu")
    inputs = chat_tokens(tokenizer, question)
    settings = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    written = model.generate(inputs, attention_mask=torch.ones_like(inputs), **settings)[0, inputs.shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True)


def chat_tokens(tokenizer: PreTrainedTokenizerBase, question: str) -> torch.Tensor:
    chat = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids


def last_line(error: Exception) -> str:
    """The last line that a process has printed, or of the error's message."""
    text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    return (text.strip().splitlines() or ["no message"])[-1]


def log(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, style="dim")
