"""Mutations run in processes of their own, so that one that hangs or dies is seen and the others go on."""

import faulthandler
import gc
import importlib
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import psutil
import torch
import transformers

from fuzz.commands import Accepted, run_command
from fuzz.kinds import Kind
from fuzz.samples import make_samples

LIMIT = 10.0  # seconds of a processor
PATIENCE = 6  # so many times that long by the clock: other programs may keep the processor from it
MEMORY = 6 * 2**30  # bytes beyond what the process has when it begins
PANIC = "panicked at"  # Rust's report of it, which a compiled library writes past Python
VERDICTS = ("accepted", "refused", "unexpected", "hang", "crash")
# What the commands import when they run; once here, instead of in every process.
IMPORTED = (
    *(
        "lm_eval.evaluator",
        "secateur.report",
        "secateur.evaluation.harness",
        "secateur.evaluation.tasks",
        "secateur.runs.stages",
    ),
    *("secateur.cli.main", "secateur.longrange.run", "secateur.longrange.data", "secateur.attention.against_dense"),
    *("secateur.attention.tuning", "secateur.runs.steps", "secateur.runs.sweep"),
    *("secateur.planning.running", "secateur.report"),
    *(
        "secateur.comparison.comparison",
        "transformers.models.llama.modeling_llama",
        "transformers.modeling_gguf_pytorch_utils",
    ),
    *("matplotlib.backends.backend_agg", "peft.tuners.lora", "datasets", "gguf", "rich.traceback"),
)


@dataclass(frozen=True)
class Mutation:
    """A damaged file: the `number`-th of its kind."""

    kind: Kind
    number: int
    seed: int

    def drawn(self) -> random.Random:
        return random.Random(f"{self.seed} {self.kind.name} {self.number}")


@dataclass(frozen=True)
class Finding:
    """What came of a mutation: a verdict of `VERDICTS`, and the reason."""

    mutation: Mutation
    verdict: str
    reason: str
    seconds: float


@dataclass
class _Worker:
    mutation: Mutation
    process: int
    place: Path
    begun: float


def prepare(root: Path) -> None:
    """Import what commands need, and make the samples below `root` in a process of its own."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        SECATEUR_CACHE=str(root / "cache"),
        HF_HOME=str(root / "hub"),
        OMP_NUM_THREADS="1",
        TOKENIZERS_PARALLELISM="false",
    )
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # for the forks, which share it
    (root / "samples").mkdir()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            make_samples(root / "samples")
            status = 0
        except Exception:  # noqa: BLE001 what it is is printed
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("the samples could not be made")


def run_all(mutations: Iterable[Mutation], root: Path, workers: int) -> Iterator[Finding]:
    """Run mutations, so many at once. `prepare` comes first."""
    waiting = iter(mutations)
    running: list[_Worker] = []
    more = True
    while more or running:
        while more and len(running) < workers:
            mutation = next(waiting, None)
            more = mutation is not None
            if mutation is not None:
                running.append(_start(mutation, root))
        time.sleep(0.002)
        for worker in list(running):
            finding = _finished(worker)
            if finding is not None:
                running.remove(worker)
                shutil.rmtree(worker.place, ignore_errors=True)
                yield finding


def run_one(mutation: Mutation, root: Path) -> tuple[Finding, Path]:
    """Run a mutation alone. Its files stay where the path says."""
    worker = _start(mutation, root)
    finding = _finished(worker)
    while finding is None:
        time.sleep(0.01)
        finding = _finished(worker)
    return finding, worker.place


def _start(mutation: Mutation, root: Path) -> _Worker:
    place = Path(tempfile.mkdtemp(prefix="mutation.", dir=root))
    process = os.fork()
    if process == 0:
        _work(mutation, root / "samples", place)
    return _Worker(mutation, process, place, time.monotonic())


def _work(mutation: Mutation, samples: Path, place: Path) -> None:
    """Damage the file and run the command, in a forked process, which ends here."""
    try:
        os.setsid()
        faulthandler.enable((place / "stacks").open("w"))
        faulthandler.dump_traceback_later(0.9 * LIMIT, file=_stacks(place))
        command = damage(mutation, samples, place / "files")
        os.chdir(place / "files")
        with (place / "errors").open("wb") as errors:
            os.dup2(errors.fileno(), 2)
        for stop in mutation.kind.stops:
            _replace(stop)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        outcome = run_command(command)
        panic = next(
            (line for line in (place / "errors").read_text(errors="replace").splitlines() if PANIC in line), ""
        )
        outcome = replace(outcome, error=outcome.error or panic)
        told: dict[str, Any] = {"verdict": outcome.verdict, "reason": outcome.error or " ".join(outcome.messages)}
        (place / "outcome.json").write_text(json.dumps(told))
    finally:
        os._exit(0)


def damage(mutation: Mutation, samples: Path, files: Path) -> tuple[str, ...]:
    """Copy what a kind needs of the samples, damage its file, and say which command reads it."""
    draw, kind = mutation.drawn(), mutation.kind
    files.mkdir()
    for name in dict.fromkeys((*kind.needs, kind.file.partition("/")[0])):
        source = samples / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, files / name)
    command = draw.choice(kind.commands)
    target = files / kind.file
    target.write_bytes(kind.mutate(target.read_bytes(), draw))
    return command


def _stacks(place: Path) -> IO[str]:
    return (place / "stacks").open("a")


def _replace(name: str) -> None:
    """Put a function that says `Accepted` in the place of another."""
    module, _, path = name.partition(":")
    owner: Any = importlib.import_module(module)
    *parts, last = path.split(".")
    for part in parts:
        owner = getattr(owner, part)

    def accepted(*_arguments: Any, **_options: Any) -> None:
        raise Accepted

    setattr(owner, last, accepted)


def _finished(worker: _Worker) -> Finding | None:
    """What came of a worker that has ended, or whose time is up; None while it works."""
    seconds = time.monotonic() - worker.begun
    used = psutil.Process(worker.process).cpu_times()
    process, status = os.waitpid(worker.process, os.WNOHANG)
    if process == 0 and used.user + used.system < LIMIT and seconds < PATIENCE * LIMIT:
        return None
    if process == 0:
        os.killpg(worker.process, signal.SIGKILL)
        os.waitpid(worker.process, 0)
        return Finding(worker.mutation, "hang", _last_stack(worker.place), seconds)
    told = worker.place / "outcome.json"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return Finding(worker.mutation, "crash", f"{name} {_last_stack(worker.place)}", seconds)
    if not told.is_file():
        return Finding(worker.mutation, "crash", f"it ended without a word {_last_stack(worker.place)}", seconds)
    outcome = json.loads(told.read_text())
    return Finding(worker.mutation, outcome["verdict"], outcome["reason"], seconds)


def _last_stack(place: Path) -> str:
    stacks = place / "stacks"
    lines = stacks.read_text(errors="replace").splitlines() if stacks.is_file() else []
    return " ← ".join(line.strip() for line in lines if line.lstrip().startswith("File"))[:600]
