"""A sample of `make fuzz`; and that it sees what it looks for."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import mutations, workers
from fuzz.commands import Outcome
from fuzz.kinds import KINDS, Kind

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "--mutations", "84"],
        cwd=TESTS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all " in done.stdout and all(kind.name in done.stdout for kind in KINDS)


def test_a_mutation_is_known_by_its_number() -> None:
    content = json.dumps({"a": [1, 2.5, "x"], "b": {"c": None}}).encode()
    for mutate in (mutations.mutated_json, mutations.mutated_yaml, mutations.mutated_text, mutations.mutated_bytes):
        one, again = ([mutate(content, random.Random(number)) for number in range(20)] for _ in range(2))
        assert one == again and len(set(one)) > 10


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Outcome(0, []), "accepted"),
        (Outcome(1, ["Error: x is damaged"]), "refused"),
        (Outcome(2, ["Error: --seed: input should be a number"]), "refused"),
        (Outcome(1, []), "unexpected"),
        (Outcome(1, ["Error: one", "Error: two"]), "unexpected"),
        (Outcome(1, [f"Error: {'x' * 2000}"]), "unexpected"),
        (Outcome(1, ["Error: unexpected KeyError: 'a'"]), "unexpected"),
        (Outcome(0, [], "KeyError: 'a'"), "unexpected"),
        (Outcome(0, [], "MemoryError: "), "crash"),
    ],
)
def test_verdicts(outcome: Outcome, verdict: str) -> None:
    assert outcome.verdict == verdict


def _hang() -> None:
    time.sleep(60)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _swell() -> None:
    bytearray(workers.MEMORY + 2**30)


def _leave() -> None:
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "verdict"), [(_hang, "hang"), (_die, "crash"), (_swell, "crash"), (_leave, "crash"), (int, "accepted")]
)
def test_a_process_that_hangs_or_dies_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], verdict: str
) -> None:
    """A process that ends without a word is one that died."""

    def command(_words: object) -> Outcome:
        try:
            work()
        except MemoryError as error:
            return Outcome(0, [], f"MemoryError: {error}")
        return Outcome(0, [])

    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/x.json").write_text("{}")
    monkeypatch.setattr(workers, "run_command", command)
    monkeypatch.setattr(workers, "LIMIT", 0.5)
    kind = Kind("x", "x.json", mutations.mutated_json, (("x",),))
    (finding,) = workers.run_all([workers.Mutation(kind, 0, 0)], tmp_path, 1)
    assert finding.verdict == verdict
