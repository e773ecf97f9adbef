"""A small prepared task, and options that make a training of seconds."""

from pathlib import Path
from typing import Any

import pytest

from secateur.longrange.config import LongRangeConfig
from secateur.longrange.data import prepare
from secateur.longrange.options import TrainConfig

MODEL = {
    "embedding_dim": 16,
    "transformer_dim": 16,
    "transformer_hidden_dim": 32,
    "head_dim": 8,
    "num_layers": 2,
    "max_seq_len": 64,
    "block_size": 8,
    "density": 0.3,
}
TRAINING = {
    "batch_size": 8,
    "learning_rate": 0.003,
    "warmup": 2,
    "eval_frequency": 4,
    "num_train_steps": 12,
    "num_init_steps": 2,
    "num_dense_train_steps": 6,
    "num_eval_steps": 4,
    "patience": 0,
    "skewness": 1e9,
}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ListOps of 64 tokens at most."""
    directory = tmp_path_factory.mktemp("listops")
    prepare("listops", directory / "data", max_length=64, train=100, dev=40, test=40)
    return directory / "data"


@pytest.fixture
def settled() -> LongRangeConfig:
    return LongRangeConfig.of_task("listops").overlaid({"model": MODEL, "training": TRAINING})


@pytest.fixture
def options(prepared: Path) -> dict[str, Any]:
    return {"task": "listops", "data": prepared, "check_every": 2, "device": "cpu"}


@pytest.fixture
def config(options: dict[str, Any]) -> TrainConfig:
    return TrainConfig(**options)
