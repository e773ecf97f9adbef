"""Cuts one after another, each by all processes together: run under torchrun by test_processes.py."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from secateur.calibration import own_text
from secateur.distributed import is_first, process_count, process_number, several_processes
from secateur.evaluation import perplexity
from secateur.models import load, save
from secateur.pruning import PruneConfig, prune
from secateur.pruning.search import SearchConfig, search
from secateur.sparsity import SparsifyConfig, sparsify


def main(cases: Path) -> None:
    with several_processes():
        for case in json.loads(cases.read_text(encoding="utf-8")):
            figures = cut(case)
            if is_first():
                Path(f"{case['output']}.json").write_text(json.dumps(figures), encoding="utf-8")


def cut(case: dict[str, Any]) -> dict[str, Any]:
    """Cut a model and save it; the figures that two processes should find as one does."""
    model, tokenizer = load(case["model"], dtype="float32")
    if case["work"] == "perplexity":
        windows = own_text(model, tokenizer, case["options"]["windows"], 40)
        figure = perplexity(model, windows, stride=30, batch_size=2)
        return {"perplexity": figure, "tokens": windows.tolist()}
    result: Any
    if case["work"] == "search":
        result = search(model, tokenizer, SearchConfig(**case["options"]))
    elif case["work"] == "prune":
        result = prune(model, tokenizer, PruneConfig(**case["options"]))
    else:
        result = sparsify(model, tokenizer, SparsifyConfig(**case["options"]))
    save(model, None, case["output"])
    _require_same(model)
    if case["work"] == "sparsify":
        return {"zeros": [matrix.zeros for matrix in result.matrices]}
    plan = result.plan.to_dict()
    if case["work"] == "search":
        return {"layers": plan["layers"], "importance": [done.divergence for done in result.rounds]}
    importance = result.layer_importance.importance if result.layer_importance else None
    return {"layers": [{**layer, "importance": None} for layer in plan["layers"]], "importance": importance}


def _require_same(model: torch.nn.Module) -> None:
    """All processes hold the same bits."""
    for weight in model.parameters():
        own = weight.detach().double()
        if process_count() > 1:
            lowest, highest = own.clone(), own.clone()
            torch.distributed.all_reduce(lowest, torch.distributed.ReduceOp.MIN)
            torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
            assert torch.equal(lowest, highest), process_number()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
