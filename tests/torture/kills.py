"""Killing a command at its N-th change to the file system, and looking at what is there afterwards."""

import gc
import hashlib
import importlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.files.names import is_beside

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Of one command the same bytes each time; other files hold times and seconds, as a checkpoint to go on from does.
EXACT, TIMED = {".safetensors", ".gguf", ".arrow"}, {"last.safetensors"}


@dataclass(frozen=True)
class Scenario:
    """A command that writes, and what was there before.

    Attributes:
        name: in the table.
        command: without `secateur`; run in the directory `work`, its inputs are named `../inputs/…`.
        outputs: below `work`; each is whole by itself.
        before: commands that were run before.
        grows: whether the result is filled over time where nothing was before.
    """

    name: str
    command: Sequence[str]
    outputs: Sequence[str]
    before: Sequence[Sequence[str]] = ()
    grows: bool = False


@dataclass
class Tally:
    """What the kills of a scenario came to: `problems` names each point whose end was not as it must be."""

    changes: int
    kills: int = 0
    problems: list[str] = field(default_factory=list)


def torture(
    scenario: Scenario, root: Path, points: Callable[[int], Sequence[int]], how: signal.Signals = signal.SIGKILL
) -> Tally:
    """Kill a command at chosen changes; look at its outputs; run it again, and compare with a run that was not killed.

    Args:
        scenario: the command.
        root: a directory with `inputs`.
        points: which of so many changes, from 1 on.
        how: the signal; to one that can be caught the command must answer with one line and status 130.
    """
    ended = -signal.SIGKILL if how == signal.SIGKILL else 130
    old, whole, work = root / "old", root / "whole", root / "work"
    for place in (old, whole, work):
        shutil.rmtree(place, ignore_errors=True)
    old.mkdir()
    for command in scenario.before:
        run_unhurt(command, root, old)
    shutil.copytree(old, whole)
    status, changes = _run(scenario.command, whole)
    tally = Tally(changes)
    if status:
        tally.problems.append(f"unhurt, the command ends with {status}")
        return tally
    for point in points(changes):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(old, work)
        status, _ = _run(scenario.command, work, kill_at=point, how=how)
        tally.kills += 1
        said = (root / f"{work.name}.log").read_text()
        if status != ended:
            tally.problems.append(f"{point}: was not killed but ended with {status}: {said.strip().splitlines()[-1:]}")
            continue
        if how != signal.SIGKILL and (said.count("Error: ") != 1 or "Traceback" in said):
            tally.problems.append(f"{point}: more than one line: {said[-300:]}")
        tally.problems += [f"{point}: {problem}" for problem in _problems(scenario, old, whole, work)]
    return tally


def run_unhurt(command: Sequence[str], root: Path, work: Path | None = None) -> None:
    """Run a command in `root/work`, or another directory beside `root/inputs`. It must succeed."""
    status, _ = _run(command, work or root / "work")
    assert status == 0, (command, (root / f"{(work or root / 'work').name}.log").read_text())


def warm_up() -> None:
    """Import what the commands need, once: the processes that are killed are forks of this one, which share it."""
    runs = ("runs.stages", "runs.sweep", "runs.searching", "longrange.recipe")
    for module in (*runs, "attention.tuning", "report", "recovery"):
        importlib.import_module(f"secateur.{module}")
    gc.freeze()


def _problems(scenario: Scenario, old: Path, whole: Path, work: Path) -> list[str]:
    problems = []
    for output in scenario.outputs:
        was, should, found = (snapshot(place / output) for place in (old, whole, work))
        # The file by which a result says what is its own may be on its way.
        found = {name: content for name, content in found.items() if not is_beside(Path(name))}
        if found not in (was, should) and not (scenario.grows and not was):
            problems.append(f"{output} is neither the old one nor the new one")
    if snapshot(work) == snapshot(whole):
        return problems  # stopped when all was done
    status, _ = _run(scenario.command, work)
    if status:
        said = work.with_name(f"{work.name}.log").read_text().strip().splitlines()[-1:]
        problems.append(f"the same command then ends with {status}: {said}")
    should, found = snapshot(whole), snapshot(work)
    if found != should:
        differing = sorted(name for name in found.keys() | should.keys() if found.get(name) != should.get(name))
        problems.append(f"then not as without a kill: {', '.join(differing)[:300]}")
    return problems


def snapshot(place: Path) -> dict[str, str]:
    """What lies below a path (or the file itself), by name: checksums where bytes are the same each time."""
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    found = {}
    for file in files:
        exact = file.is_file() and file.suffix in EXACT and file.name not in TIMED
        found[str(file.relative_to(place))] = hashlib.sha256(file.read_bytes()).hexdigest() if exact else ""
    return found


def _run(command: Sequence[str], work: Path, kill_at: int = 0, how: signal.Signals = signal.SIGKILL) -> tuple[int, int]:
    """Run a command in a process of its own. Returns its exit status (negative: a signal) and its changes in `work`."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.close(reader)
        status = 70
        try:
            status = _command(command, work, kill_at, how, writer)
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as counts:
        counted = len(counts.read())
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), counted


def _command(command: Sequence[str], work: Path, kill_at: int, how: signal.Signals, writer: int) -> int:
    from secateur.cli import main

    os.chdir(work)
    log = os.open(work.parent / f"{work.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _count_changes(work, kill_at, how, writer)
    sys.argv = ["secateur", *command]
    try:
        main.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _count_changes(work: Path, kill_at: int, how: signal.Signals, writer: int) -> None:
    """A byte into the pipe before each change below `work`; the process gets a signal at the `kill_at`-th."""
    counted = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal counted
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITING:
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, int) or not (Path.cwd() / os.fsdecode(path)).is_relative_to(work):
            return
        counted += 1
        if counted == kill_at:
            os.kill(os.getpid(), how)
        os.write(writer, b".")

    sys.addaudithook(hook)
