"""Processes of a process group, forked off one that has imported secateur: torchrun would import it in each anew."""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

PRELOADED = [
    "transformers.models.llama.modeling_llama",
    "secateur.cli.main",
    "secateur.runs.stages",
    "secateur.attention.tuning",
    "secateur.longrange.run",
    "secateur.recovery.recover",
    "secateur.recovery.sharding",
]


def run_together(
    arguments: list[str], place: Path, timeout: float, count: int
) -> list["subprocess.CompletedProcess[str]"]:
    """Run a script, or `-m MODULE …`, as torchrun would.

    Args:
        arguments: as after `python`.
        place: an empty directory, for what the processes print.
        timeout: seconds, after which all are killed.
        count: of processes; one stands alone, without a process group.

    Returns:
        For each process its exit status and what it has printed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = []
    for number in range(count):
        group = {
            **{"RANK": str(number), "LOCAL_RANK": str(number)},
            **{"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        }
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(group if count > 1 else {})}
        process = context.Process(target=_run, args=(arguments, environment, str(place), number))
        process.start()
        started.append(process)
    for process in started:
        process.join(timeout)
    late = [process for process in started if process.exitcode is None]
    for process in late:
        process.kill()
        process.join()
    ended = [
        subprocess.CompletedProcess(
            arguments, process.exitcode or 0, *((place / f"{name} {number}").read_text() for name in ("out", "err"))
        )
        for number, process in enumerate(started)
    ]
    if late:
        raise subprocess.TimeoutExpired(arguments, timeout, stderr="\n".join(process.stderr for process in ended))
    return ended


def _run(arguments: list[str], environment: dict[str, str], place: str, number: int) -> None:
    """One of the processes: a script or module with this environment, its output in files."""
    import torch

    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(f"{place}/{name} {number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    if arguments[0] == "-m":
        sys.argv = [arguments[1], *arguments[2:]]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
