"""Some of the kills of `make torture`: for each command the first, the last and a few between."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from torture.kills import Scenario, run_unhurt, torture, warm_up
from torture.scenarios import SCENARIOS, make_inputs

SAMPLED = 2


def sampled(changes: int) -> Sequence[int]:
    """The last change, and some spread over the rest: other ones in a command with another number of changes."""
    return sorted({changes, *((2 * number + 1) * changes // (2 * SAMPLED) or 1 for number in range(SAMPLED))})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("torture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(directory / "cache"))
        warm_up()
        make_inputs(directory, lambda command: run_unhurt(command, directory))
        yield directory


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_old_or_the_new_and_nothing_left_over(root: Path, scenario: Scenario) -> None:
    tally = torture(scenario, root, sampled)
    assert not tally.problems
    assert tally.kills >= min(3, tally.changes)
