"""Some of the kills of `make torture`: for each command the first, the last and a few between."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from torture.kills import Scenario, run_unhurt, torture, warm_up
from torture.scenarios import SCENARIOS, make_inputs

SAMPLED = 2


def sampled(changes: int) -> Sequence[int]:
    """The last change, and some spread over the rest: other ones in a command with another number of changes."""
    return sorted({changes, *((2 * number + 1) * changes // (2 * SAMPLED) or 1 for number in range(SAMPLED))})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    from conftest import make_tiny_model

    directory = tmp_path_factory.mktemp("torture")
    os.environ["SECATEUR_CACHE"] = str(directory / "cache")
    warm_up()
    make_inputs(
        directory, make_tiny_model(num_hidden_layers=2), tiny_tokenizer, lambda command: run_unhurt(command, directory)
    )
    return directory


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_old_or_the_new_and_nothing_left_over(root: Path, scenario: Scenario) -> None:
    tally = torture(scenario, root, sampled)
    assert not tally.problems
    assert tally.kills >= min(3, tally.changes)
