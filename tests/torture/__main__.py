"""`make torture`: every command that writes, killed at every change to the file system."""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from torture.kills import Scenario, Tally, run_unhurt, torture, warm_up
from torture.scenarios import SCENARIOS, make_inputs


@dataclass(frozen=True)
class Order:
    """One scenario to be tortured: with which inputs, how often, and by which signal."""

    scenario: Scenario
    inputs: Path
    sample: int | None
    how: signal.Signals


def carried_out(order: Order) -> tuple[Scenario, Tally, float]:
    """Torture a scenario, in a directory of its own. Returns it with what came of it and the seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="secateur-torture-") as directory:
        root = Path(directory)
        shutil.copytree(order.inputs, root, dirs_exist_ok=True)
        os.environ.update(HF_HUB_OFFLINE="1", SECATEUR_CACHE=str(root / "cache"))
        tally = torture(order.scenario, root, lambda changes: points(changes, order.sample), order.how)
    return order.scenario, tally, time.perf_counter() - start


def main(names: list[str], sample: int | None, how: signal.Signals, jobs: int) -> int:
    """Torture the scenarios of these names, or all. Returns the exit status.

    Args:
        names: of scenarios.
        sample: at how many changes each is killed; None: at all.
        how: the signal.
        jobs: scenarios at a time.
    """
    console = Console()
    rows: dict[str, tuple[str, ...]] = {}
    lost = 0
    warm_up()
    with (
        tempfile.TemporaryDirectory(prefix="secateur-torture-") as directory,
        multiprocessing.get_context("fork").Pool(jobs) as pool,
    ):
        inputs = Path(directory)
        pool.apply(_made, (inputs,))
        orders = [Order(scenario, inputs, sample, how) for scenario in SCENARIOS if not names or scenario.name in names]
        for scenario, tally, seconds in pool.imap_unordered(carried_out, orders):
            hurt = len({problem.partition(":")[0] for problem in tally.problems})
            lost += hurt
            figures = (tally.changes, tally.kills, max(tally.kills - hurt, 0), round(seconds))
            rows[scenario.name] = (scenario.name, *map(str, figures))
            console.print(f"{scenario.name}: {tally.kills} kills, {hurt} lost, {seconds:.0f} s", highlight=False)
            for problem in tally.problems:
                console.print(f"  {problem}", highlight=False, markup=False)
    table = Table("command", "changes", "kills", "survived", "seconds")
    for order in orders:
        table.add_row(*rows[order.scenario.name])
    console.print(table)
    console.print(f"{lost} lost or left over", highlight=False)
    return 1 if lost else 0


def _made(inputs: Path) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", SECATEUR_CACHE=str(inputs / "cache"))
    make_inputs(inputs, lambda command: run_unhurt(command, inputs))


def points(changes: int, sample: int | None) -> Sequence[int]:
    """All changes, or the last and some spread over the others."""
    if sample is None or sample >= changes:
        return range(1, changes + 1)
    spread = ((2 * number + 1) * changes // (2 * (sample - 1)) for number in range(sample - 1))
    return sorted({changes, *(max(1, point) for point in spread)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("names", nargs="*", help="scenarios; all by default")
    parser.add_argument("--sample", type=int, help="kills of each; by default one at every change")
    parser.add_argument("--signal", default="SIGKILL", help="SIGKILL, or SIGINT or SIGTERM")
    parser.add_argument("--jobs", type=int, default=2, help="scenarios at a time")
    given = parser.parse_args()
    sys.exit(main(given.names, given.sample, signal.Signals[given.signal], given.jobs))
