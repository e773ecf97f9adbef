"""Small blocks, so that tiny models have something to leave out."""

import pytest

SMALL = {"query_block": 16, "key_block": 16}


@pytest.fixture
def small_blocks() -> dict[str, int]:
    return dict(SMALL)
