"""Peak memory of a process: blocks of known size, one measurement within another, and where Linux does not tell."""

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.models import memory
from secateur.models.memory import give_back, peak_growth, peak_memory

MODEL = nn.Linear(1, 1)
CPU = torch.device("cpu")
NUMBERS = 25_000_000
BYTES = 4 * NUMBERS


@pytest.fixture(params=["kept by Linux", "sampled"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    if request.param == "sampled":
        monkeypatch.setattr(memory, "CLEAR", tmp_path / "none" / "clear_refs")
        monkeypatch.setattr(memory, "SAMPLING_SECONDS", 0.005)
    # What other tests of this process have left behind would come back in the middle of a measurement.
    give_back()
    return request.param


def use(numbers: int) -> None:
    block = torch.ones(numbers)
    time.sleep(0.1)  # long enough to be seen by one who looks
    del block


@pytest.mark.parametrize("parts", [1, 2, 0.1])
def test_what_is_given_back_counts(way: str, parts: float) -> None:
    expected = int(parts * BYTES)
    assert peak_growth(lambda: use(expected // 4), CPU) == pytest.approx(expected, rel=0.03, abs=2e6)
    # Once more: what the first left behind in the C library is not taken for nothing.
    assert peak_growth(lambda: use(expected // 4), CPU) == pytest.approx(expected, rel=0.03, abs=2e6)


def test_one_within_another(way: str) -> None:
    with peak_memory(MODEL) as outer:
        before = outer.bytes
        use(2 * NUMBERS)
        held = torch.ones(NUMBERS)
        with peak_memory(MODEL) as inner:
            use(NUMBERS // 2)
        with peak_memory(MODEL) as least:
            pass
    # At least: more may be freed late.
    for peak, least_expected in ((outer, 2 * BYTES), (inner, 1.5 * BYTES), (least, held.nbytes)):
        assert peak.bytes - before >= 0.97 * least_expected
    assert least.bytes <= inner.bytes <= outer.bytes


def test_the_inner_ones_peak_is_the_outer_ones(way: str) -> None:
    with peak_memory(MODEL) as outer:
        before = outer.bytes
        with peak_memory(MODEL):
            use(NUMBERS)
    assert outer.bytes - before == pytest.approx(BYTES, rel=0.03, abs=2e6)


def test_a_block_that_fails_is_watched_no_more() -> None:
    with pytest.raises(KeyError), peak_memory(MODEL):
        raise KeyError
    assert memory._watched == []
