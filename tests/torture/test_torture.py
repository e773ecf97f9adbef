"""Some of the kills of `make torture`, in a process of their own: threads of other tests do not survive a fork."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FEW = ("prune --overwrite", "recover", "run --overwrite")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--sample", "2"), ("--sample", "3", "--signal", "SIGTERM", *FEW)])
def test_the_old_or_the_new_and_nothing_left_over(arguments: tuple[str, ...]) -> None:
    tests = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-m", "torture", *arguments],
        env={**os.environ, "PYTHONPATH": f"{tests}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.rstrip().endswith("0 lost or left over")
