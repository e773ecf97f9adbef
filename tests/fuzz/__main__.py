"""`make fuzz`: damage every kind of file that secateur reads; exit with 1 unless all is read or refused in one line."""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fuzz.kinds import KINDS, Kind
from fuzz.workers import VERDICTS, Finding, Mutation, prepare, run_all, run_one

FAULTS = ("unexpected", "hang", "crash")
HEADINGS = ("file", "mutations", "accepted", "refused", "unexpected", "hangs", "crashes")


def main() -> int:
    """Parse, run, print. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=4200, help="in all, shared out among the kinds of files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes at once")
    parser.add_argument("--kind", action="append", help="only this kind of file; may be repeated")
    parser.add_argument("--only", type=int, help="one mutation of one kind, by its number; its files are kept")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if options.kind is None or kind.name in options.kind]
    if not kinds:
        parser.error(f"the kinds are {'; '.join(kind.name for kind in KINDS)}")
    console, begun = Console(width=200, soft_wrap=True), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="secateur-fuzz-"))
    try:
        prepare(root)
        if options.only is not None:
            finding, place = run_one(Mutation(kinds[0], options.only, options.seed), root)
            console.print(f"{finding.verdict}, {finding.seconds:.1f} s: {finding.reason}\n{place}", markup=False)
            return int(finding.verdict in FAULTS)
        mutations = mutations_of(kinds, options.mutations, options.seed)
        findings = list(run_all(mutations, root, options.workers))
    finally:
        if options.only is None:
            shutil.rmtree(root, ignore_errors=True)
    console.print(table(kinds, findings))
    faults = [finding for finding in findings if finding.verdict in FAULTS]
    for fault in faults:
        where = f"--kind '{fault.mutation.kind.name}' --only {fault.mutation.number}"
        console.print(f"{fault.verdict}: {where}: {fault.reason}", markup=False, highlight=False)
    slowest = max(finding.seconds for finding in findings)
    console.print(f"seed {options.seed}, {time.monotonic() - begun:.0f} s, the longest of them {slowest:.1f} s")
    return int(bool(faults))


def mutations_of(kinds: Sequence[Kind], total: int, seed: int) -> Iterator[Mutation]:
    """So many mutations, one of each kind in turn."""
    everything = (Mutation(kind, number, seed) for number in itertools.count() for kind in kinds)
    return itertools.islice(everything, total)


def table(kinds: Sequence[Kind], findings: Sequence[Finding]) -> Table:
    """What came of the mutations: a line for each kind of file, and one for all."""
    lines = Table(*HEADINGS, box=None)
    for column in lines.columns[1:]:
        column.justify = "right"
    rows = [(kind.name, [each for each in findings if each.mutation.kind is kind]) for kind in kinds]
    for name, own in (*rows, ("all", findings)):
        counted = Counter(finding.verdict for finding in own)
        lines.add_row(name, str(len(own)), *(str(counted[verdict]) for verdict in VERDICTS))
    return lines


if __name__ == "__main__":
    sys.exit(main())
