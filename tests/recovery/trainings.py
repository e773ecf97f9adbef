"""Trainings one after another, each by all processes together: run under torchrun by test_several_processes.py."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.distributed import is_first, several_processes
from secateur.errors import TrainingError
from secateur.models import load
from secateur.recovery import recover, trainer
from secateur.recovery.sharding import own_part
from secateur.recovery.trainer import RecoveryTrainer


def main(cases: Path) -> None:
    trainer.KEEP_GOOD_EVERY["full"] = 1
    with several_processes():
        for case in json.loads(cases.read_text(encoding="utf-8")):
            for go in case["goes"]:
                train(case, **go)


def train(case: dict[str, Any], stop: int | None = None, poisoned: int | None = None, fsdp: bool = False) -> None:
    """Train, to the end or until it is interrupted in the step after a given one.

    Or until, in the step after `poisoned`, the loss of the last process is not a number.
    """
    original: Any = RecoveryTrainer.training_step

    def interrupted(self: RecoveryTrainer, model: Any, *arguments: Any) -> Tensor:
        if self.state.global_step == stop:
            raise KeyboardInterrupt
        if self.state.global_step == poisoned and not is_first():
            weights = [weight for weight in model.parameters() if weight.requires_grad]
            with torch.no_grad():
                own_part(weights[0]).fill_(torch.nan)
        return original(self, model, *arguments)

    model, tokenizer = load(case["model"], dtype=case["dtype"])
    RecoveryTrainer.training_step = interrupted  # type: ignore[method-assign, assignment]
    try:
        recover(model, tokenizer, case["output"], fsdp=fsdp, **case["options"])
    except KeyboardInterrupt:
        assert stop is not None
    except TrainingError as error:
        if is_first():
            Path(f"{case['output']}.error").write_text(str(error), encoding="utf-8")
    finally:
        RecoveryTrainer.training_step = original


if __name__ == "__main__":
    main(Path(sys.argv[1]))
