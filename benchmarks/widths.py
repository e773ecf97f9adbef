"""Seconds and memory per layer of the cuts at the widths of real models, on random Llama layers.

    python benchmarks/widths.py                                  # hidden 1024, 2048 and 4096
    python benchmarks/widths.py --hidden 2048 --steps admm       # one width, one step
    python benchmarks/widths.py --baseline 5614704               # beside another commit, each step of both in turn

A model has two layers, an MLP 3.5 times as wide as the hidden states, heads of 128 and eight key/value heads; the text
is eight windows of 512 tokens. Each step runs in a process of its own. Memory is the most that the resident set grows
during the step, beyond the model and what else stands before it. `forward` is one pass of the text through a layer;
`least` is what the step's own mathematics would take at the rate of one large float32 product of this machine: passes
through the layer, second moments, factors, solving, with symmetry used. The last line is one JSON object: by width and
step, seconds and bytes a layer of this checkout and of the baseline.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import common
from secateur.report import Column, TextTable

sys.path.append(str(common.ROOT / "tests"))
from tiny import make_tiny_tokenizer

WINDOWS, SEQLEN, LAYERS, RATIO = 8, 512, 2, 0.25
TOKENS = WINDOWS * SEQLEN
STEPS = {
    "prune: scores": ("prune", "unit scores"),
    "prune: cut": ("prune", "cut"),
    "sparsify: wanda": ("wanda", "cut"),
    "sparsify: sparsegpt": ("sparsegpt", "cut"),
    "sparsify: admm": ("admm", "cut"),
    "attention tune": ("tune", "all"),
    "search": ("search", "all"),
}
Figures = dict[str, dict[str, float]]


def main() -> None:
    options = parse_options()
    if options.child:
        print(json.dumps(measured(options.child, options.hidden[0], options)))
        return
    with tempfile.TemporaryDirectory(prefix="secateur-widths-") as directory:
        checkouts = {"this": common.ROOT}
        if options.baseline:
            checkouts["baseline"] = worktree(options.baseline, Path(directory) / "baseline")
        try:
            found = {hidden: figures(hidden, checkouts, options) for hidden in options.hidden}
        finally:
            if options.baseline:
                git("worktree", "remove", "--force", str(checkouts["baseline"]))
    show(found, "baseline" in checkouts)
    print(json.dumps(found))


def parse_options() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", default=[1024, 2048, 4096], help="hidden sizes")
    parser.add_argument("--steps", nargs="+", default=[], metavar="STEP", help=f"words out of: {', '.join(STEPS)}")
    parser.add_argument("--baseline", metavar="COMMIT", help="another commit to measure beside this checkout")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="bfloat16 where the processor multiplies it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", choices=["forward", *{run for run, _ in STEPS.values()}], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.child and not any(chosen(step, options) for step in STEPS):
        parser.error(f"--steps names none of: {', '.join(STEPS)}")
    return options


def chosen(step: str, options: argparse.Namespace) -> bool:
    return not options.steps or any(word in step for word in options.steps)


def worktree(commit: str, directory: Path) -> Path:
    git("worktree", "add", "--detach", str(directory), commit)
    return directory


def git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(common.ROOT), *arguments], check=True, stdout=subprocess.DEVNULL)


def figures(hidden: int, checkouts: dict[str, Path], options: argparse.Namespace) -> dict[str, Figures]:
    """For each step seconds and bytes a layer, of each checkout, with `forward` and `least`."""
    base = in_own_process("forward", hidden, common.ROOT, options)
    wanted = {step: STEPS[step] for step in STEPS if chosen(step, options)}
    found: dict[str, Figures] = {step: {} for step in wanted}
    for run in dict.fromkeys(run for run, _ in wanted.values()):
        for name, checkout in checkouts.items():
            phases = in_own_process(run, hidden, checkout, options)
            for step, (its_run, phase) in wanted.items():
                if its_run == run:
                    seconds, peak = phases[phase]
                    found[step][name] = {"seconds": seconds / LAYERS, "bytes": peak}
                    print(f"{hidden} {step}, {name}: {seconds / LAYERS:.2f} s a layer", file=sys.stderr, flush=True)
    for step in found:
        found[step]["forward"] = {"seconds": base["forward"][0]}
        if (operations := least(step, hidden)) is not None:
            found[step]["least"] = {"seconds": operations / base["rate"][0]}
    return found


def in_own_process(run: str, hidden: int, checkout: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    command = [sys.executable, __file__, "--child", run, "--hidden", str(hidden), "--data", str(options.data)]
    command += ["--threads", str(options.threads), "--seed", str(options.seed)]
    command += ["--dtype", options.dtype] if options.dtype else []
    settings = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=settings
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured(run: str, hidden: int, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Seconds and the growth of memory in bytes of each phase of a run."""
    model, tokenizer = random_llama(hidden, options), make_tiny_tokenizer()
    if run == "forward":
        return {"forward": (forward_seconds(model), 0.0), "rate": (product_rate(), 0.0)}
    secateur = importlib.import_module("secateur")
    found: dict[str, tuple[float, float]] = {}
    calibrated: dict[str, Any] = {
        "windows": WINDOWS,
        "seqlen": SEQLEN,
        "own_text": 0.0,
        "seed": options.seed,
        "data": str(options.data),
    }
    with watched(found, "all"):
        if run == "prune":
            watch_phases("secateur.pruning.prune", found)
            secateur.prune(model, tokenizer, ratio=RATIO, **calibrated)
        elif run == "search":
            secateur.search(model, tokenizer, ratio=RATIO, rounds=2, **calibrated)
        elif run == "tune":
            tune = importlib.import_module("secateur.attention").tune
            tune(model, tokenizer, data=str(options.data), windows=WINDOWS, seqlen=SEQLEN)
        else:
            watch_phases("secateur.sparsity.sparsify", found)
            secateur.sparsify(model, tokenizer, method=run, allocation="uniform", **calibrated)
    return found


def random_llama(hidden: int, options: argparse.Namespace) -> PreTrainedModel:
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=259,
        hidden_size=hidden,
        intermediate_size=7 * hidden // 2,
        num_hidden_layers=LAYERS,
        num_attention_heads=hidden // 128,
        num_key_value_heads=min(8, hidden // 128),
        max_position_embeddings=4096,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
    )
    capable = torch.cpu.get_capabilities()
    fast = bool(capable.get("amx_bf16") or capable.get("avx512_bf16"))
    dtype = options.dtype or ("bfloat16" if fast else "float32")
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


@torch.no_grad()
def forward_seconds(model: PreTrainedModel) -> float:
    """Seconds of one pass of the text through one layer, the best of three."""
    tokens = torch.randint(0, 256, (WINDOWS, SEQLEN))
    return min(clock(lambda: model.model(tokens, use_cache=False)) for _ in range(3)) / LAYERS


def product_rate() -> float:
    """Floating-point operations a second of one product of float32 matrices."""
    matrix = torch.randn(2048, 2048)
    return 2 * 2048**3 / min(clock(lambda: matrix @ matrix) for _ in range(4))


def clock(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def watch_phases(module: str, found: dict[str, tuple[float, float]]) -> None:
    """Have the phases that a module times watched as well."""
    importlib.import_module(module).timed = lambda _, phase: watched(found, phase)  # type: ignore[attr-defined]


@contextmanager
def watched(found: dict[str, tuple[float, float]], phase: str) -> Iterator[None]:
    """Note how long the block takes, and the most that the process's memory grows in it."""
    process, done = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    found[phase] = seconds, float(most - before)


def least(step: str, hidden: int) -> float | None:
    """Floating-point operations a layer of a step's mathematics; None where it has none but the pass and scores."""
    key_value = 128 * min(8, hidden // 128)
    wide = 7 * hidden // 2
    passing = 2 * TOKENS * (hidden * (2 * hidden + 2 * key_value) + 3 * hidden * wide)
    if step == "prune: scores":  # forward and back for what the loss minds; each half's removals, all but one
        return 4 * passing + sum(_moments(n) + n**3 + n**3 / 3 + n * n * hidden for n in (hidden, wide))
    if step == "prune: cut":
        left = (1 - RATIO) ** 3
        removing = sum((1 - left) * (n**3 / 3 + n * n * hidden) for n in (hidden, wide))
        solving = sum(n**3 + 2 * n * n * hidden for n in (hidden, wide))
        return 2 * passing + sum(_moments(n) + 2 * TOKENS * n * hidden for n in (hidden, wide)) + solving + removing
    inputs = {"qkv": (hidden, hidden + 2 * key_value), "o": (hidden, hidden), "mlp": (hidden, 2 * wide)}
    inputs["down"] = (wide, hidden)
    if step == "sparsify: wanda":
        return passing
    if step == "sparsify: sparsegpt":
        return passing + sum(_moments(n) + 4 * n**3 / 3 + outputs * n * n for n, outputs in inputs.values())
    if step == "sparsify: admm":  # 20 steps of ADMM and 21 of conjugate gradients, a product each
        solving = sum(_moments(n) + n**3 + 2 * 41 * outputs * n * n for n, outputs in inputs.values())
        crossing = sum(2 * TOKENS * n * n for n in (hidden, hidden)) + 2 * TOKENS * hidden * (hidden + wide)
        return 2 * passing + solving + crossing
    return None


def _moments(size: int) -> float:
    """XᵀX, half of which follows from the other."""
    return TOKENS * size * size


def show(found: dict[int, dict[str, Figures]], with_baseline: bool) -> None:
    names = ["this", *(["baseline"] if with_baseline else [])]
    lines = [(hidden, step, figure) for hidden, steps in found.items() for step, figure in steps.items()]
    figures = [figure for *_, figure in lines]

    def ratios(key: str, above: str, below: str) -> list[str]:
        return [f"{figure[above][key] / figure[below][key]:.2f}" for figure in figures]

    columns = [
        Column("hidden", [str(hidden) for hidden, *_ in lines]),
        Column("step", [step for _, step, _ in lines], "left"),
        *(Column(f"s, {name}", [f"{figure[name]['seconds']:.2f}" for figure in figures]) for name in names),
        *(Column(f"GB, {name}", [f"{figure[name]['bytes'] / 1e9:.2f}" for figure in figures]) for name in names),
    ]
    if with_baseline:
        columns += [Column("faster", ratios("seconds", "baseline", "this"))]
        columns += [Column("memory", ratios("bytes", "this", "baseline"))]
    for key in ("forward", "least"):
        cells = [f"{figure[key]['seconds']:.2f}" if key in figure else "" for figure in figures]
        columns.append(Column(key, cells))
    Console().print(TextTable(columns, "seconds a layer, and GB of the step", labels=2), soft_wrap=True)


if __name__ == "__main__":
    main()
