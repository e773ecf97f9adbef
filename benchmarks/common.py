"""What the benchmarks share: where their text lies, and the options of all of them."""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIKITEXT = ROOT.parent / "shared" / "data" / "wikitext2-valid.txt"


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with `--data` and `--seed`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=existing_file, default=str(WIKITEXT), help="WikiText-2 validation split")
    made.add_argument("--seed", type=int, default=0)
    return made


def existing_file(path: str) -> Path:
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{path} is missing; give WikiText-2's validation split as a text file")
    return Path(path)
