"""Trainings one after another, each by all processes together: run under torchrun by test_processes.py."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from secateur.distributed import is_first, process_count, several_processes
from secateur.errors import TrainingError
from secateur.longrange.config import LongRangeConfig
from secateur.longrange.model import LongRangeModel
from secateur.longrange.options import TrainConfig
from secateur.longrange.run import train_run
from secateur.longrange.trainer import Trainer


def main(cases: Path) -> None:
    with several_processes():
        for case in json.loads(cases.read_text(encoding="utf-8")):
            try:
                train(case)
            except TrainingError as error:
                if is_first():
                    Path(f"{case['output']}.error").write_text(str(error), encoding="utf-8")


def train(case: dict[str, Any]) -> None:
    """Train; in the last of several processes memory is short in the steps of `short`, for more examples than `fit`."""
    forward, learn = LongRangeModel.forward, Trainer._learn
    step = -1

    def learning(self: Trainer, *arguments: Any) -> None:
        nonlocal step
        step = self.state.step
        learn(self, *arguments)

    def cramped(self: LongRangeModel, input_ids: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        if self.training and step in case["short"] and len(input_ids) > case["fit"] and not alone and not is_first():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids, *more, **options)

    alone = process_count() == 1
    settled = LongRangeConfig.of_task("listops").overlaid(case["settled"])
    Trainer._learn, LongRangeModel.forward = learning, cramped  # type: ignore[method-assign]
    try:
        train_run(TrainConfig(**case["options"]), Path(case["output"]), command_line="", settled=settled)
    finally:
        Trainer._learn, LongRangeModel.forward = learn, forward  # type: ignore[method-assign]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
