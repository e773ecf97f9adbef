"""Pruned models in the engines that people serve with: what opens, whether the tokens are Transformers', how fast.

    make engines                                             # sets the engines up, one environment each, then this
    python benchmarks/engines.py --engines vllm llama.cpp    # of those that are set up
    python benchmarks/engines.py --models smollm2 smollm2-pruned --keep out/engines

The models are random ones of every family, cut evenly, unevenly in the MLP only, unevenly in both halves, the latter
with tied embeddings too, and after `recover`; SmolLM2 as it is, cut by `--ratio`, and cut evenly; and cuts rounded to
4 bits, which vLLM runs in bfloat16, all else in float32. Each engine is run with the Python of its own environment,
`.engines/NAME`. Five prompts are read and 32 greedy tokens written after each; Transformers' own, in float32, are what
they are held against. Tokens per second are of `--new-tokens` after a prompt of 64, the models in turns. The last line
is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

import common
from engine_models import NAMES, NEMOTRON, SMOLLM2, Expected, expected, export, last_line, log, made
from engine_server import ask_server
from secateur.report import Column, TextTable

ENGINES = ("vllm", "llama.cpp", "mlx-lm", "openvino", "ctranslate2", "onnxruntime-genai")
RUNNERS = common.ROOT / "benchmarks" / "engine_runners"
PROMPT_TOKENS = 64
FOUR_BITS_MARK = "-4-bit"


@dataclass
class Result:
    """A model in an engine."""

    opens: bool = False
    tokens_equal: bool | None = None
    logprob_difference: float | None = None
    tokens_per_second: float | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "error"}


@dataclass
class EngineResult:
    """All models in an engine."""

    version: str | None
    models: dict[str, Result] = field(default_factory=dict)
    server: dict[str, Any] | None = None


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="secateur-engines-") as temporary:
        directory = options.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        paths = made(options.models, directory, options.ratio, options.seed)
        wanted = {name: expected(name, path) for name, path in paths.items()}
        found = {name: engine_result(name, paths, wanted, directory, options) for name in options.engines}
    show(found)
    print(json.dumps({name: to_dict(engine) for name, engine in found.items()}))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES, metavar="MODEL", help=", ".join(NAMES))
    parser.add_argument("--environments", type=Path, default=common.ROOT / ".engines", metavar="DIR")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="models, exports and logs stay there and are used again"
    )
    parser.add_argument("--ratio", type=float, default=0.2, help="share of SmolLM2's parameters to remove")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def engine_result(
    name: str, paths: dict[str, Path], wanted: dict[str, Expected], directory: Path, options: argparse.Namespace
) -> EngineResult:
    python = options.environments.absolute() / name / "bin" / "python"
    if not python.is_file():
        log(f"{name}: not installed in {python.parent.parent}")
        return EngineResult(None)
    result = EngineResult(version_of(name, python, directory))
    if result.version is None:
        return result
    for model, path in paths.items():
        if model in NEMOTRON and name == "llama.cpp":
            continue
        with Running(name, python, directory / name / model, options.threads) as running:
            try:
                result.models[model] = read(running, given(name, path, running.work), wanted[model])
            except subprocess.CalledProcessError as error:
                result.models[model] = Result(error=last_line(error))
        log(f"{name}, {model}: {result.models[model].error or result.models[model].to_dict()}")
    timed = {model: path for model, path in paths.items() if model in SMOLLM2 and result.models[model].opens}
    for model, rate in rates(name, python, timed, directory, options).items():
        result.models[model].tokens_per_second = rate
    if name == "vllm" and "smollm2-pruned" in timed:
        result.server = ask_server(python, timed["smollm2-pruned"], directory / name)
        log(f"{name}, its server: {result.server}")
    return result


class Running:
    """An engine's process: see engine_runners/runner.py."""

    def __init__(self, engine: str, python: Path, work: Path, threads: int) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.log = work, work / "log.txt"
        script = RUNNERS / f"{engine.replace('-', '_').replace('.', '_')}_runner.py"
        settings = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        # The environment's own commands, compilers' helpers among them, come first.
        settings["PATH"] = f"{python.parent}{os.pathsep}{settings['PATH']}"
        with self.log.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=settings
            )

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, do: str, **job: Any) -> dict[str, Any]:
        """The answer, or `error` where there is none."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps({"do": do, **job}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"the process ended with status {self.process.wait()}; see {self.log}"}
        return json.loads(line)


def version_of(name: str, python: Path, directory: Path) -> str | None:
    with Running(name, python, directory / name, 1) as running:
        answer = running.ask("version")
    if "error" in answer:
        log(f"{name} does not start: {answer['error']}")
    return answer.get("version")


def given(engine: str, path: Path, work: Path) -> Path:
    """What the engine opens of a model: its directory, or the file that `secateur export` makes of it."""
    if engine != "llama.cpp":
        return path
    file = work / "model.gguf"
    if not file.is_file():
        export(path, file)
    return file


def read(running: Running, model: Path, wanted: Expected) -> Result:
    opened = running.ask("open", model=str(model), work=str(running.work))
    if "error" in opened:
        return Result(error=opened["error"])
    answer = running.ask("read", prompts=wanted.prompts, new_tokens=len(wanted.tokens[0]))
    if "error" in answer:
        return Result(error=answer["error"])
    pairs = zip(answer["log_probabilities"], wanted.log_probabilities, strict=True)
    differences = [abs(one - other) for found, known in pairs for one, other in zip(found, known, strict=True)]
    return Result(True, answer["tokens"] == wanted.tokens, max(differences))


def rates(
    name: str, python: Path, paths: dict[str, Path], directory: Path, options: argparse.Namespace
) -> dict[str, float]:
    """Median tokens per second, the models in turns, after one round to warm up."""
    if not paths:
        return {}
    found: dict[str, list[float]] = {model: [] for model in paths}
    running = {model: Running(name, python, directory / name / f"{model}-timed", options.threads) for model in paths}
    try:
        for model, process in running.items():
            model_of = given(name, paths[model], directory / name / model)
            answer = process.ask("open", model=str(model_of), work=str(process.work), quick=False)
            if "error" in answer:
                log(f"{name}, {model}, timed: {answer['error']}")
                del found[model]
        prompt = [1000 + 7 * place for place in range(PROMPT_TOKENS)]
        for _ in range(options.repeats + 1):
            for model, values in found.items():
                answer = running[model].ask("time", prompt=prompt, new_tokens=options.new_tokens)
                values.append(answer.get("tokens_per_second", float("nan")))
        return {model: statistics.median(values[1:]) for model, values in found.items()}
    finally:
        for process in running.values():
            process.__exit__()


def to_dict(engine: EngineResult) -> dict[str, Any]:
    return {model: result.to_dict() for model, result in engine.models.items()}


COLUMNS = {
    "even": ("-even",),
    "MLP": ("-mlp",),
    "both": ("-both",),
    "tied": ("-tied",),
    "Qwen3": ("qwen3-",),
    "rec.": ("-recovered",),
    "NAS": ("-nemotron-nas",),
    "4 bits": (FOUR_BITS_MARK,),
}


def show(found: dict[str, EngineResult]) -> None:
    names = [f"{name} {engine.version or 'not installed'}" for name, engine in found.items()]
    headers = (*COLUMNS, "tokens equal", "log p differ", "tok/s all", "tok/s cut")
    figures = zip(*(cells(engine) for engine in found.values()), strict=True)
    columns = [Column(header, list(column)) for header, column in zip(headers, figures, strict=True)]
    table = TextTable([Column("engine", names, "left"), *columns], "models that open, of those tried")
    Console().print(table, soft_wrap=True)


def cells(engine: EngineResult) -> list[str]:
    results = engine.models
    shown = []
    for parts in COLUMNS.values():
        mine = [
            result.opens
            for model, result in results.items()
            if any(part in model for part in parts) and (FOUR_BITS_MARK in parts or FOUR_BITS_MARK not in model)
        ]
        shown.append(f"{sum(mine)}/{len(mine)}" if mine else "")
    opened = [result for result in results.values() if result.opens]
    shown.append(f"{sum(bool(result.tokens_equal) for result in opened)}/{len(opened)}" if opened else "")
    differences = [result.logprob_difference for result in opened if result.logprob_difference is not None]
    shown.append(f"{max(differences):.0e}" if differences else "")
    for models in (("smollm2",), ("smollm2-pruned", "smollm2-even")):
        timed: Sequence[float] = [
            rate for model in models if model in results and (rate := results[model].tokens_per_second) is not None
        ]
        shown.append(f"{timed[0]:.1f}" if timed else "")
    return shown


if __name__ == "__main__":
    main()
