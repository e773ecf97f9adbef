"""Computed against measured: what `secateur plan` says of SmolLM2-135M on this CPU, and what its phases take.

    python benchmarks/scale.py                            # all phases
    python benchmarks/scale.py --phases "load;evaluate"   # some of them
    python benchmarks/scale.py --rates                    # what the processor does in one large product

Each phase runs in a process of its own, on one thread; seconds are its processor time, which other programs beside it
hardly change. Memory is the growth of the resident set, with the model's weights. The last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import common
import secateur
from secateur.calibration.own_text import own_text
from secateur.calibration.windows import calibrate
from secateur.costs.devices import CORE
from secateur.models.memory import peak_memory
from secateur.planning import PlanConfig, estimate
from secateur.pruning import PruneConfig
from secateur.pruning.allocation import allocate, units_removed
from secateur.pruning.cutting import cut_and_refit
from secateur.pruning.importance import magnitude_scores
from secateur.pruning.prune import unit_scores
from secateur.pruning.search import SearchConfig

MODEL = "smollm2-135m"
SAMPLES, EVALUATE_WINDOWS, RECOVER_WINDOWS = 16, 16, 24
Phase = Callable[[], object]
Prepare = Callable[[PreTrainedModel, PreTrainedTokenizerBase, argparse.Namespace], Phase]


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    if options.rates:
        print(json.dumps(rates()))
        return
    if options.child:
        print(json.dumps(measured(options.phases[0], options)))
        return
    config = PlanConfig(
        devices="1xcpu-core",
        windows=options.samples,
        recover_samples=RECOVER_WINDOWS,
        evaluate_windows=EVALUATE_WINDOWS,
    )
    computed = {phase.phase: phase for phase in estimate(MODEL, config).phases}
    print(f"{'phase':24}{'GB, computed':>14}{'measured':>10}{'s, computed':>14}{'measured':>10}")
    rows = {}
    for name in options.phases or computed:
        found = in_own_process(name, options)
        phase = computed[name]
        rows[name] = {**found, "computed_bytes": phase.memory_bytes, "computed_seconds": phase.seconds}
        print(
            f"{name:24}{phase.memory_bytes / 1e9:14.2f}{found['bytes'] / 1e9:10.2f}{phase.seconds or 0:14.1f}"
            f"{found['seconds']:10.1f}",
            flush=True,
        )
    print(json.dumps(rows))


def parse_options() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="calibration windows of 512 tokens")
    parser.add_argument("--phases", type=lambda text: text.split(";"), default=[], help="names of the plan's rows")
    parser.add_argument("--rates", action="store_true", help="measure the processor's rates only")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(name: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", "--phases", name, "--samples", str(options.samples)]
    done = subprocess.run([*command, "--data", str(options.data)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a phase, and the bytes that it and the model take."""
    before = resident()
    start = time.process_time()
    model, tokenizer = secateur.load(MODEL)
    seconds = time.process_time() - start
    with torch.no_grad():
        model(torch.zeros(1, 16, dtype=torch.long))  # so that all weights, mapped from their file, are in memory
    if name == "load":
        return {"seconds": seconds, "bytes": resident() - before}
    phase = PHASES[name](model, tokenizer, options)
    weights = sum(weight.nbytes for weight in model.parameters())
    before = resident()
    with peak_memory(model) as memory:
        seconds = clock(phase)
    return {"seconds": seconds, "bytes": memory.bytes - before + weights}


def resident() -> int:
    return psutil.Process().memory_info().rss


def evaluate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> Phase:
    return lambda: secateur.evaluate(model, tokenizer, data=[str(options.data)], windows=EVALUATE_WINDOWS)


def write_own_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> Phase:
    config = PruneConfig(windows=options.samples)
    seed = time.time_ns() % 2**32  # so that it is not in the cache
    return lambda: own_text(model, tokenizer, int(config.own_text * config.windows), config.seqlen, seed)


def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> Phase:
    config = calibration(options)
    windows = calibrate(model, tokenizer, config).windows
    return lambda: unit_scores(model, windows, config)


def cut(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> Phase:
    config = calibration(options)
    windows = calibrate(model, tokenizer, config).windows
    uniform = config.model_copy(update={"allocation": "uniform"})
    counts = units_removed(allocate(model, uniform, magnitude_scores(model), None))
    return lambda: cut_and_refit(model, None, counts, windows, config.batch_size, config.damping)


def calibration(options: argparse.Namespace) -> PruneConfig:
    """As many windows as the plan's, all of them from the text: where they come from does not matter here."""
    return PruneConfig(windows=options.samples, own_text=0.0, data=str(options.data))


def sparsify(method: str) -> Prepare:
    def prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> Phase:
        settings: dict[str, Any] = {"windows": options.samples, "data": str(options.data)}
        calibrate(model, tokenizer, calibration(options))  # so that the tokens are in the cache
        return lambda: secateur.sparsify(model, tokenizer, method=method, **settings)

    return prepare


def search(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> Phase:
    calibrate(model, tokenizer, calibration(options))
    settings: dict[str, Any] = {"windows": options.samples, "own_text": 0.0, "data": str(options.data)}
    return lambda: secateur.search(model, tokenizer, patience=SearchConfig().rounds, **settings)


def recover(method: str, with_teacher: bool = False) -> Prepare:
    def prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> Phase:
        teacher = secateur.load(MODEL)[0] if with_teacher else None
        settings: dict[str, Any] = {"method": method, "samples": RECOVER_WINDOWS, "data": str(options.data)}

        def run() -> None:
            with tempfile.TemporaryDirectory() as directory:
                secateur.recover(model, tokenizer, Path(directory) / "recovered", teacher=teacher, **settings)

        return run

    return prepare


PHASES: dict[str, Prepare] = {
    "evaluate": evaluate,
    "prune: own text": write_own_text,
    "prune: scores": score,
    "prune: cut and re-fit": cut,
    "search": search,
    **{f"sparsify: {method}": sparsify(method) for method in ("magnitude", "wanda", "sparsegpt", "admm")},
    **{f"recover: {method}": recover(method) for method in ("lora", "full")},
    **{f"recover: {method}, teacher": recover(method, with_teacher=True) for method in ("lora", "full")},
}


def clock(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def rates() -> dict[str, float]:
    """FLOP/s of a product of two 2048 x 2048 matrices, and bytes a second of a copy: the best of four."""
    found = {}
    for name, dtype in (("products", torch.bfloat16), ("float32", torch.float32), ("float64", torch.float64)):
        matrix = torch.randn(2048, 2048).to(dtype)
        found[name] = 2 * 2048**3 / min(clock(lambda matrix=matrix: matrix @ matrix) for _ in range(4))
    source = torch.empty(64 << 20)
    target = torch.empty_like(source)
    found["bandwidth"] = 2 * source.nbytes / min(clock(lambda: target.copy_(source)) for _ in range(4))
    return {**found, "of the table": {name: getattr(CORE, name) for name in found}}  # type: ignore[dict-item]


if __name__ == "__main__":
    main()
