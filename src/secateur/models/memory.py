"""The most memory that a piece of work uses, and how long it takes."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from torch import nn
from torch._C._profiler import _ExperimentalConfig
from torch.autograd import ProfilerConfig, ProfilerState

SAMPLING_SECONDS = 0.02


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
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Note in `seconds` how long the block takes."""
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start


def allocated_peak(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes that PyTorch allocates at once, beyond what it held before, while a function runs."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    # The older of PyTorch's profilers: the newer one writes lines of its own on standard error.
    settings = ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
    torch.autograd._enable_profiler_legacy(settings)
    try:
        run()
    finally:
        threads = torch.autograd._disable_profiler_legacy()
    changes = [event.cpu_memory_usage() for events in threads for event in events if event.kind() == "memory_alloc"]
    return max(itertools.accumulate(changes, initial=0))


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


@contextmanager
def _peak_of_process() -> Iterator[Peak]:
    process, done = psutil.Process(), threading.Event()
    peak = Peak(process.memory_info().rss)

    def watch() -> None:
        while not done.wait(SAMPLING_SECONDS):
            peak.bytes = max(peak.bytes, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
