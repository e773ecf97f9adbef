"""What is told of the machine."""

from pathlib import Path

import psutil
import pytest

from secateur import environment
from secateur.environment import memory_bytes


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([], None),
        (["max"], None),
        (["1000000000\n"], 1_000_000_000),
        (["max", "2000000000"], 2_000_000_000),
        (["9223372036854771712"], None),  # how version 1 says that there is none
    ],
    ids=str,
)
def test_a_container_s_memory_is_all_there_is(
    limits: list[str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / str(number) for number in range(2)]
    for file, limit in zip(files, limits, strict=False):
        file.write_text(limit)
    monkeypatch.setattr(environment, "CONTAINER_LIMITS", files)
    assert memory_bytes() == (expected or psutil.virtual_memory().total)
