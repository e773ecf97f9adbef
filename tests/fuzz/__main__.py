"""`cd tests && python -m fuzz`: run mutations of every kind of file, print a table, exit with 1 if any is a fault."""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fuzz.kinds import KINDS, Kind
from fuzz.workers import VERDICTS, Finding, Mutation, prepare, run_all, run_one

FAULTS = ("unexpected", "hang", "crash")
HEADINGS = ("file", "mutations", "accepted", "refused", "unexpected", "hangs", "crashes")


def main() -> int:
    """Parse, run, print. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=4500, help="in all, shared out among the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes at once")
    parser.add_argument("--kind", action="append", help="only this kind of file; may be repeated")
    parser.add_argument("--only", type=int, help="one mutation of one kind, by its number; its files are kept")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if options.kind is None or kind.name in options.kind]
    if not kinds:
        parser.error(f"the kinds are {'; '.join(kind.name for kind in KINDS)}")
    begun = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="fuzz."))
    try:
        prepare(root)
        if options.only is not None:
            return _show(Mutation(kinds[0], options.only, options.seed), root)
        findings = list(run_all(_mutations(kinds, options.mutations, options.seed), root, options.workers))
    finally:
        if options.only is None:
            shutil.rmtree(root, ignore_errors=True)
    print_table(kinds, findings)
    slowest = max(findings, key=lambda finding: finding.seconds)
    print(f"\nseed {options.seed}, {time.monotonic() - begun:.0f} s; the slowest mutation {slowest.seconds:.1f} s")
    faults = [finding for finding in findings if finding.verdict in FAULTS]
    for fault in faults:
        print(f"{fault.verdict}: --kind '{fault.mutation.kind.name}' --only {fault.mutation.number}: {fault.reason}")
    return int(bool(faults))


def print_table(kinds: Sequence[Kind], findings: Sequence[Finding]) -> None:
    """Print what came of the mutations, a line for each kind of file and one for all."""
    rows = [(kind.name, [each for each in findings if each.mutation.kind is kind]) for kind in kinds]
    width = max(len(name) for name, _ in rows)
    print(HEADINGS[0].ljust(width), *HEADINGS[1:], sep="  ")
    for name, own in (*rows, ("all", list(findings))):
        counted = Counter(finding.verdict for finding in own)
        figures = [len(own), *(counted[verdict] for verdict in VERDICTS)]
        cells = [str(figure).rjust(len(heading)) for figure, heading in zip(figures, HEADINGS[1:], strict=True)]
        print(name.ljust(width), *cells, sep="  ")


def _mutations(kinds: Sequence[Kind], total: int, seed: int) -> Iterator[Mutation]:
    """So many mutations, one of each kind in turn."""
    everything = (Mutation(kind, number, seed) for number in itertools.count() for kind in kinds)
    return itertools.islice(everything, total)


def _show(mutation: Mutation, root: Path) -> int:
    finding, place = run_one(mutation, root)
    print(f"{finding.verdict} after {finding.seconds:.1f} s: {finding.reason}\nits files: {place}")
    return int(finding.verdict in FAULTS)


if __name__ == "__main__":
    sys.exit(main())
