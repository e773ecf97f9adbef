"""`make families`: run the commands on a small model of each family and write what came of it into docs/families.md."""

import os
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from families.commands import COMMANDS, Place, outcome
from families.table import PAGE, write
from secateur.models import supported_model_types


def main() -> int:
    """Run, print, write. Returns the exit status."""
    console, results = Console(), {}
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="secateur-families-") as directory:
        os.environ["SECATEUR_CACHE"] = f"{directory}/cache"
        for family in supported_model_types():
            console.print(family)
            place = Place(family, Path(directory) / family)
            results[family] = {command: outcome(command, place) for command in COMMANDS}
    write(results)
    console.print(str(PAGE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
