"""A short text, and a training on it that takes about a second."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.recovery import RecoverResult, recover
from secateur.recovery.trainer import RecoveryTrainer

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


@pytest.fixture
def stopped_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """Interrupt the training in the block in the step after a given one."""

    @contextmanager
    def stopping(step: int) -> Iterator[None]:
        original = RecoveryTrainer.training_step

        def interrupted(self: RecoveryTrainer, *arguments: Any) -> Tensor:
            if self.state.global_step == step:
                raise KeyboardInterrupt
            return original(self, *arguments)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(RecoveryTrainer, "training_step", interrupted)
            yield

    return stopping
