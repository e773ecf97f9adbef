"""A short text, and a training on it that takes about a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from secateur.recovery import RecoverResult, recover

WORDS = "the quick brown fox jumps over the lazy dog and then it sleeps in the warm sun until noon "


@pytest.fixture
def story(tmp_path: Path, private_cache: Path) -> Path:
    """40 windows of 32 bytes, and a bit."""
    file = tmp_path / "story.txt"
    file.write_text((WORDS * 20)[: 40 * 32 + 5], encoding="utf-8")
    return file


Train = Callable[..., RecoverResult]


@pytest.fixture
def train(story: Path, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> Train:
    """`recover` on the story: windows of 32, batches of 4, 8 windows for validation, 8 steps."""

    def run(model: Any, name: str = "out", **options: Any) -> RecoverResult:
        settings = {"data": str(story), "seqlen": 32, "batch_size": 4, "val_size": 8, "eval_steps": 4, **options}
        return recover(model, tiny_tokenizer, tmp_path / name, **settings)

    return run
