"""The most memory that a piece of work uses, and how long it takes."""

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import nn

from secateur import progress

SAMPLING_SECONDS = 0.02
# Linux: writing "5" makes the peak of the resident set the present one. See proc_pid_clear_refs(5).
CLEAR, STATUS, RESET_PEAK = Path("/proc/self/clear_refs"), Path("/proc/self/status"), "5"


@dataclass
class Peak:
    """The most memory seen, in bytes; final once the block it was measured over has ended."""

    bytes: int = 0


def devices_of(model: nn.Module) -> list[torch.device]:
    """The devices that hold the model's parameters."""
    return sorted({parameter.device for parameter in model.parameters()}, key=str)


def now(model: nn.Module) -> float:
    """Seconds of a clock, once the model's devices have done all they were told."""
    for device in devices_of(model):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def timed(seconds: dict[str, float], phase: str, *, said: bool = True) -> Iterator[None]:
    """Note in `seconds` how long the block takes; the log says when it begins for the first time, where `said`."""
    start = time.perf_counter()
    with progress.phase(phase, said=said and phase not in seconds):
        yield
    seconds[phase] = time.perf_counter() - start


def give_back() -> None:
    """Free garbage, and return to the system what glibc keeps: a block that fits in there would seem to take none."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_growth(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes in use while a function runs, beyond what was before: allocated on a GPU, else resident."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    give_back()
    with _peak_of_process() as peak:
        before = peak.bytes
        run()
    return peak.bytes - before


@contextmanager
def peak_memory(model: nn.Module) -> Iterator[Peak]:
    """Watch memory while the block runs: what the model's GPUs have allocated, or the process's resident set."""
    gpus = [device for device in devices_of(model) if device.type == "cuda"]
    with _peak_of_gpus(gpus) if gpus else _peak_of_process() as peak:
        yield peak


@contextmanager
def _peak_of_gpus(gpus: list[torch.device]) -> Iterator[Peak]:
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    peak = Peak()
    yield peak
    peak.bytes = sum(torch.cuda.max_memory_allocated(gpu) for gpu in gpus)


_watched: list[Peak] = []  # of the blocks that run now, one within another


@contextmanager
def _peak_of_process() -> Iterator[Peak]:
    """The peak that Linux keeps for each process; elsewhere the resident set is looked at all the time."""
    peak = Peak(psutil.Process().memory_info().rss)
    if not _begin_anew():
        with _sampled(peak):
            yield peak
        return
    _watched.append(peak)
    try:
        yield peak
    finally:
        _begin_anew()
        _watched.pop()


def _begin_anew() -> bool:
    """Note the peak in every block that is watched, and let Linux begin it anew. Returns whether it does."""
    try:
        high = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        CLEAR.write_text(RESET_PEAK)
    except (OSError, StopIteration):
        return False
    for peak in _watched:
        peak.bytes = max(peak.bytes, int(high.split()[1]) * 1024)
    return True


@contextmanager
def _sampled(peak: Peak) -> Iterator[None]:
    process, done = psutil.Process(), threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLING_SECONDS):
            peak.bytes = max(peak.bytes, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
