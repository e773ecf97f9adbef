"""The tasks whose sources are read, and Pathfinder, from prepare to accuracy with their own options."""

from collections.abc import Callable
from pathlib import Path

import pytest
from test_data_sources import acl_folders, cifar_binary, pairs

from secateur.longrange.config import LongRangeConfig
from secateur.longrange.data import prepare
from secateur.longrange.evaluate import evaluate
from secateur.longrange.options import EvaluateConfig, TrainConfig
from secateur.longrange.run import train_run

QUICK = {
    "batch_size": 4,
    "warmup": 1,
    "eval_frequency": 2,
    "num_train_steps": 4,
    "num_init_steps": 1,
    "num_dense_train_steps": 2,
    "num_eval_steps": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "build"), [("image", cifar_binary), ("text", acl_folders), ("retrieval", pairs), ("pathfinder", None)]
)
def test_from_the_published_files_to_accuracy(task: str, build: Callable[[Path], None] | None, tmp_path: Path) -> None:
    data, source = tmp_path / "data" / task, tmp_path / "source"
    if build is None:
        prepare(task, data, train=20, dev=8, test=8, path_length=6)
    else:
        build(source)
        prepare(task, data, from_directory=source, max_length=None if task == "image" else 300)
    blocks = {"block_size": 32, "num_layers": 2} | ({} if task in ("image", "pathfinder") else {"max_seq_len": 300})
    settled = LongRangeConfig.of_task(task).overlaid({"model": blocks, "training": QUICK})
    config = TrainConfig(task=task, check_every=1, device="cpu")  # type: ignore[arg-type]
    results = train_run(config, tmp_path, command_line="", settled=settled)
    assert results is not None
    assert results["switched"] == 2
    again = evaluate(EvaluateConfig(task=task, device="cpu"), tmp_path)  # type: ignore[arg-type]
    assert again["accuracy"] == results["accuracy"]
    assert again["examples"] == results["test_examples"]
