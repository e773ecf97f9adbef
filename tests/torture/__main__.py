"""`make torture`: every command that writes, killed at every change to the file system."""

import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from torture.kills import run_unhurt, torture, warm_up
from torture.scenarios import SCENARIOS, make_inputs


def main(names: list[str]) -> int:
    """Torture the scenarios of these names, or all. Returns the exit status."""
    console = Console()
    table = Table("command", "changes", "kills", "survived", "seconds")
    lost = 0
    with tempfile.TemporaryDirectory(prefix="secateur-torture-") as directory:
        root = Path(directory)
        os.environ.update(HF_HUB_OFFLINE="1", COLUMNS="80", SECATEUR_CACHE=str(root / "cache"))
        torch.set_num_threads(1)
        warm_up()
        make_inputs(root, lambda command: run_unhurt(command, root))
        for scenario in SCENARIOS:
            if names and scenario.name not in names:
                continue
            start = time.perf_counter()
            tally = torture(scenario, root, lambda changes: range(1, changes + 1))
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


sys.exit(main(sys.argv[1:]))
