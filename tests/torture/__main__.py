"""`make torture`: every command that writes, killed at every change to the file system."""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from torture.kills import run_unhurt, torture, warm_up
from torture.scenarios import SCENARIOS, make_inputs


def main(names: list[str], sample: int | None, how: signal.Signals) -> int:
    """Torture the scenarios of these names, or all. Returns the exit status.

    Args:
        names: of scenarios.
        sample: at how many changes each is killed; None: at all.
        how: the signal.
    """
    console = Console()
    table = Table("command", "changes", "kills", "survived", "seconds")
    lost = 0
    with tempfile.TemporaryDirectory(prefix="secateur-torture-") as directory:
        root = Path(directory)
        os.environ.update(HF_HUB_OFFLINE="1", COLUMNS="80", SECATEUR_CACHE=str(root / "cache"))
        warm_up()
        make_inputs(root, lambda command: run_unhurt(command, root))
        for scenario in SCENARIOS:
            if names and scenario.name not in names:
                continue
            start = time.perf_counter()
            tally = torture(scenario, root, lambda changes: points(changes, sample), how)
            hurt = len({problem.partition(":")[0] for problem in tally.problems})
            lost += hurt
            seconds = f"{time.perf_counter() - start:.0f}"
            table.add_row(scenario.name, str(tally.changes), str(tally.kills), str(tally.kills - hurt), seconds)
            console.print(f"{scenario.name}: {tally.kills} kills, {hurt} lost, {seconds} s", highlight=False)
            for problem in tally.problems:
                console.print(f"  {problem}", highlight=False, markup=False)
    console.print(table)
    console.print(f"{lost} lost or left over", highlight=False)
    return 1 if lost else 0


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
    given = parser.parse_args()
    sys.exit(main(given.names, given.sample, signal.Signals[given.signal]))
