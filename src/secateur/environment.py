"""The machine, the libraries and the processes beside this one; told without importing PyTorch where it can be."""

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

# Of Linux's control groups, version 2 and 1; "max" stands for none.
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
PACKAGES = ("secateur", "torch", "transformers", "peft", "accelerate", "datasets")


def launched_together() -> bool:
    """Whether torchrun or the like has started other processes beside this one."""
    return {"RANK", "MASTER_ADDR"} <= os.environ.keys() and int(os.environ.get("WORLD_SIZE", "1")) > 1


def memory_bytes() -> int:
    """The memory that this process may use: the machine's, or what its container was given of it."""
    limits = [file.read_text().strip() for file in CONTAINER_LIMITS if file.is_file()]
    return min([psutil.virtual_memory().total, *(int(limit) for limit in limits if limit.isdecimal())])


def versions() -> dict[str, str]:
    """Versions of Python and the libraries that the figures come from."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def machine() -> dict[str, str | int]:
    """The processor, its cores, memory, and the GPUs."""
    import torch

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, str | int] = {
        "cpu": _cpu_name(),
        "cores": available,
        "threads": torch.get_num_threads(),
        "memory": f"{memory_bytes() / 1e9:.1f} GB",
    }
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {**found, "gpu": ", ".join(gpus) or "none"}


def _cpu_name() -> str:
    """Linux says it in /proc/cpuinfo, other systems in `platform`."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
