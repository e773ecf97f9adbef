"""Large texts: the seconds and the memory that some windows of them take.

    python benchmarks/text.py                             # all cases: some minutes, 2 GB of temporary files
    python benchmarks/text.py --cases "300 MB txt;50 MB line"
    python benchmarks/text.py --megabytes 30 --rows 100000

Each case is a file made in a temporary directory and a process of its own, which loads a tiny model with SmolLM2's
tokenizer and then reads the first windows (as evaluate does), draws windows by a seed (as prune does) or training
examples, draws from the file's second half, and measures the perplexity of the first windows, whose tokens are cached
by then. Each has its seconds and those of the processor ("cpu"), which other programs hardly change. Memory is the
largest resident set of the whole process in MB: after loading the model (loaded_mb), before evaluate (tokens_mb) and at
the end (peak_mb). The last line is one JSON object.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import torch
from pyarrow import parquet
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import secateur
from secateur.data import load_corpus, pack_examples, token_windows
from secateur.evaluation import evaluate
from secateur.models.embedded import embedded_directory

MB = 1_000_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def main() -> None:
    options = parse_options()
    if options.child:
        print(json.dumps(measured(Path(options.child[0]), Path(options.child[1]), options)))
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model"
        tiny_model(model)
        for name in options.cases:
            suffix, write = CASES[name]
            file = Path(directory) / f"text{suffix}"
            write(file, options)
            results[name] = {"file_mb": round(file.stat().st_size / MB, 1), **in_a_process(model, file, options)}
            print(f"{name:20} {results[name]}", flush=True)
            file.unlink()
    print(json.dumps({"windows": options.windows, "seqlen": options.seqlen, "cases": results}))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=lambda text: text.split(";"), default=list(CASES), help=";".join(CASES))
    parser.add_argument("--megabytes", type=int, default=300, help="of the large files")
    parser.add_argument("--line-megabytes", type=int, default=50, help="of the long line")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the files with many rows")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def tiny_model(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_directory())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def in_a_process(model: Path, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--windows", str(options.windows), "--seqlen", str(options.seqlen)]
    with tempfile.TemporaryDirectory() as cache:
        finished = subprocess.run(
            [*command, "--child", str(model), str(file)],
            env={**os.environ, "SECATEUR_CACHE": cache},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(finished.stdout.splitlines()[-1])


def measured(directory: Path, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a child finds: seconds of each step, and the peak of its memory in MB before and after."""
    torch.set_num_threads(1)
    model, tokenizer = secateur.load(str(directory))
    loaded = peak_mb()
    seconds: dict[str, float] = {}

    def timed(step: str, work: Callable[[], object]) -> None:
        start, used = time.perf_counter(), time.process_time()
        work()
        seconds[step] = round(time.perf_counter() - start, 2)
        seconds[f"{step} cpu"] = round(time.process_time() - used, 2)

    def packed() -> None:
        pack_examples(tokenizer, load_corpus(str(file)).examples, options.seqlen, options.windows, 0)

    settings = {"data": [str(file)], "windows": options.windows, "seqlen": options.seqlen, "speed": False}
    timed("first", lambda: token_windows(tokenizer, load_corpus(str(file)), options.seqlen, limit=options.windows))
    timed("drawn", packed if load_corpus(str(file)).examples else lambda: drawn(tokenizer, str(file), options))
    timed("part drawn", lambda: drawn(tokenizer, f"{file}[50%:]", options))
    tokens_mb = peak_mb()
    timed("evaluate", lambda: evaluate(model, tokenizer, **settings))
    return {**seconds, "tokens_mb": tokens_mb, "loaded_mb": loaded, "peak_mb": peak_mb()}


def peak_mb() -> int:
    """The largest resident set of this process so far. `getrusage` would count what its parent had when it began."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * 1024 / MB)


def drawn(tokenizer: Any, name: str, options: argparse.Namespace) -> None:
    token_windows(tokenizer, load_corpus(name), options.seqlen, limit=options.windows, seed=0)


def words(seed: int) -> Iterator[str]:
    """Lines of made words without end, the frequent ones short."""
    chance = random.Random(seed)
    known = ["".join(chance.choices(LETTERS, k=1 + rank // 400)) for rank in range(4000)]
    while True:
        yield " ".join(known[int(4000 * chance.random() ** 3)] for _ in range(12))


def write_text(file: Path, options: argparse.Namespace, separator: str = "\n") -> None:
    block = separator.join(line for line, _ in zip(words(0), range(20_000), strict=False)) + separator
    write_repeated(file, block.encode(), options.megabytes)


def write_repeated(file: Path, block: bytes, megabytes: int) -> None:
    with file.open("wb") as out:
        while out.tell() < megabytes * MB:
            out.write(b"%d " % out.tell() + block)


def write_line(file: Path, options: argparse.Namespace) -> None:
    """Letters without a blank."""
    chance = random.Random(0)
    file.write_text("".join(chance.choices(LETTERS, k=options.line_megabytes * MB)))


def write_line_of_words(file: Path, options: argparse.Namespace) -> None:
    options = argparse.Namespace(**{**vars(options), "megabytes": options.line_megabytes})
    write_text(file, options, " ")


def write_long_row(file: Path, options: argparse.Namespace) -> None:
    lines = words(0)
    text = " ".join(next(lines) for _ in range(options.line_megabytes * MB // 60))
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in (text,)))


def write_rows(file: Path, options: argparse.Namespace) -> None:
    with file.open("w") as out:
        for number, line in zip(range(options.rows), words(0), strict=False):
            out.write(json.dumps({"id": number, "text": f"{number} {line}. {line}"}) + "\n")


def write_examples(file: Path, options: argparse.Namespace) -> None:
    with file.open("w") as out:
        for number, line in zip(range(options.rows), words(0), strict=False):
            out.write(json.dumps({"instruction": f"Repeat {number}.", "input": line, "output": line}) + "\n")


def write_list(file: Path, options: argparse.Namespace) -> None:
    write_rows(file, options)
    rows = file.read_text().splitlines()
    file.write_text("[\n" + ",\n".join(rows) + "\n]\n")


def write_parquet(file: Path, options: argparse.Namespace) -> None:
    texts = [f"{number} {line}. {line}" for number, line in zip(range(options.rows), words(0), strict=False)]
    parquet.write_table(pyarrow.table({"text": texts}), file)


CASES: dict[str, tuple[str, Callable[[Path, argparse.Namespace], None]]] = {
    "300 MB txt": (".txt", write_text),
    "50 MB line": (".txt", write_line),
    "50 MB line of words": (".txt", write_line_of_words),
    "50 MB row jsonl": (".jsonl", write_long_row),
    "1M rows jsonl": (".jsonl", write_rows),
    "1M examples jsonl": (".jsonl", write_examples),
    "1M rows json": (".json", write_list),
    "1M rows parquet": (".parquet", write_parquet),
}

if __name__ == "__main__":
    main()
