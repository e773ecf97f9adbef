"""SmolLM2 and the same with a fifth of its parameters gone, in llama.cpp: tokens per second.

    python benchmarks/llama_cpp.py

Both are exported (f16) and run by the package xllamacpp, whose llama.cpp is built for the CPU; the models take turns.
Prefill is a prompt of `--prompt-tokens` random tokens, decode is `--new-tokens` after it. The last line is one JSON
object.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import xllamacpp

import secateur


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--ratio", type=float, default=0.2, help="share of all parameters to remove")
    parser.add_argument("--dtype", choices=["f16", "bf16", "q8_0"], default="f16")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        exports = exported(options, Path(directory))
        rows = measured({name: Path(export["file"]) for name, export in exports.items()}, options)
    print(f"{'':10} {'architecture':>13} {'parameters':>12} {'MB':>7} {'prefill':>9} {'decode':>8}")
    for name, export in exports.items():
        print(
            f"{name:10} {export['architecture']:>13} {export['parameters_in_file']:12,} {export['bytes'] / 1e6:7.1f} "
            f"{rows[name]['prefill']:9.1f} {rows[name]['decode']:8.1f}"
        )
    result: dict[str, Any] = {"dtype": options.dtype, "ratio": options.ratio, "threads": options.threads}
    for name, row in rows.items():
        result |= {f"{name}_{figure}_tokens_per_second": value for figure, value in row.items()}
        result[f"{name}_bytes"] = exports[name]["bytes"]
    for figure in ("prefill", "decode"):
        result[f"{figure}_speedup"] = rows["pruned"][figure] / rows["original"][figure]
    print(json.dumps(result))


def exported(options: argparse.Namespace, directory: Path) -> dict[str, dict[str, Any]]:
    """The files of both models. How good the cut is does not matter here, so that it is a quick one."""
    model, tokenizer = secateur.load(options.model, dtype="float32", device="cpu")
    exports = {}
    for name in ("original", "pruned"):
        if name == "pruned":
            quick = {"samples": 4, "seqlen": 128, "own_text": 0, "importance": "activation", "compensate": False}
            secateur.prune(model, tokenizer, ratio=options.ratio, seed=options.seed, **quick)
        file = directory / f"{name}.gguf"
        exports[name] = {"file": file, **secateur.export(model, tokenizer, file, dtype=options.dtype).to_dict()}
    return exports


def measured(files: dict[str, Path], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median tokens per second of prefill and decode, the models in turns, after one round to warm up."""
    servers = {name: serve(file, options) for name, file in files.items()}
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
    generator = random.Random(options.seed)
    for _ in range(options.repeats + 1):
        prompt = [generator.randrange(1000, 40_000) for _ in range(options.prompt_tokens)]
        for name, server in servers.items():
            rates[name].append(timed(server, prompt, options.new_tokens))
    return {
        name: dict(zip(("prefill", "decode"), map(statistics.median, zip(*values[1:], strict=True)), strict=True))
        for name, values in rates.items()
    }


def serve(file: Path, options: argparse.Namespace) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel = options.prompt_tokens + options.new_tokens, 1
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.warmup, params.verbosity = False, 0
    return xllamacpp.Server(params)


def timed(server: Any, prompt: list[int], new_tokens: int) -> tuple[float, float]:
    """Tokens per second of reading a prompt and of writing on, as the server counts them."""
    body = {"prompt": prompt, "n_predict": new_tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    request = urllib.request.Request(
        f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        timings = json.load(answer)["timings"]
    return timings["prompt_per_second"], timings["predicted_per_second"]


if __name__ == "__main__":
    main()
