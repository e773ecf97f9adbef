"""secateur makes transformer language models smaller and faster, and wins back the quality that costs."""

import importlib
import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur import attention
    from secateur.comparison.calls import compare
    from secateur.costs.measuring import measure_widths
    from secateur.evaluation.evaluate import evaluate
    from secateur.evaluation.health import diagnose
    from secateur.exporting.export import export
    from secateur.handover.memory import save
    from secateur.models import load
    from secateur.planning.estimates import estimate as plan
    from secateur.pruning.prune import prune
    from secateur.pruning.search.rounds import search
    from secateur.quantization.quantize import quantize
    from secateur.recovery import merge
    from secateur.recovery.recover import recover
    from secateur.runs.calls import run, sweep
    from secateur.sparsity.sparsify import sparsify

    __version__: str

__all__ = [
    "__version__",
    "attention",
    "compare",
    "diagnose",
    "evaluate",
    "export",
    "load",
    "measure_widths",
    "merge",
    "plan",
    "prune",
    "quantize",
    "recover",
    "run",
    "save",
    "search",
    "sparsify",
    "sweep",
]

_HOMES = {
    "compare": "secateur.comparison",
    "diagnose": "secateur.evaluation",
    "evaluate": "secateur.evaluation",
    "export": "secateur.exporting",
    "load": "secateur.models",
    "measure_widths": "secateur.costs.measuring",
    "merge": "secateur.recovery",
    "plan": "secateur.planning",
    "prune": "secateur.pruning",
    "quantize": "secateur.quantization",
    "recover": "secateur.recovery",
    "run": "secateur.runs.calls",
    "save": "secateur.handover",
    "search": "secateur.pruning.search",
    "sparsify": "secateur.sparsity",
    "sweep": "secateur.runs.calls",
}


def __getattr__(name: str) -> Any:
    if name == "attention":
        return importlib.import_module("secateur.attention")
    if name == "__version__":
        return importlib.metadata.version("secateur")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_the_command() -> bool:
    name = next(iter(sys.argv), "")
    # `-m` stands there while `python -m secateur` is looking for the module.
    return Path(name).stem == "secateur" or (name == "-m" and "secateur" in sys.orig_argv)


# Transformers' Auto classes know uneven models from here on. The command line imports what it needs itself: help and
# wrong usage should not wait seconds for PyTorch.
if not _is_the_command():
    importlib.import_module("secateur.models")
