"""Each command that loads a model, as it is typed."""

from collections.abc import Mapping
from pathlib import Path

TEXT = ["--samples", 4, "--seqlen", 32, "--batch-size", 2]
MEASURED = ["--data", "TEXT", "--windows", 2, "--seqlen", 32]
BLOCKS = ["--query-block", 16, "--key-block", 16]
COMMANDS = {
    "prune": ["prune", "MODEL", "-o", "OUT", "--ratio", 0.2, "--calibration", "TEXT", "--own-text", 0.5, *TEXT],
    "sparsify": ["sparsify", "MODEL", "-o", "OUT", "--calibration", "TEXT", "--own-text", 0.5, *TEXT],
    "search": ["search", "MODEL", "-o", "OUT", "--calibration", "TEXT", "--rounds", 1, "--measured", 2, *TEXT],
    "evaluate": ["evaluate", "MODEL", "MODEL", *MEASURED, "--prompt-tokens", 8, "--new-tokens", 2, "--repeats", 1],
    "evaluate an adapter": ["evaluate", "MODEL", "--adapter", "ADAPTER", *MEASURED, "--no-speed"],
    "diagnose": ["diagnose", "MODEL", "--seqlen", 32],
    "recover": ["recover", "MODEL", "-o", "OUT", "--data", "TEXT", "--samples", 4, "--seqlen", 32, "--val-size", 1],
    "recover a sparse model": [
        *("recover", "SPARSE", "-o", "OUT", "--data", "TEXT", "--samples", 4, "--seqlen", 32, "--teacher", "MODEL"),
    ],
    "merge": ["merge", "MODEL", "--adapter", "ADAPTER", "-o", "OUT"],
    "merge into zeros": [
        *("merge", "SPARSE", "--adapter", "ADAPTER", "-o", "OUT", "--zeros", "keep", "--data", "TEXT", "--windows", 1),
    ],
    "attention tune": [
        *("attention", "tune", "MODEL", "-o", "FILE.safetensors", "--data", "TEXT", "--samples", 1, "--seqlen", 256),
        *BLOCKS,
    ],
    "attention generate": [
        *("attention", "generate", "MODEL", "--prompt-file", "TEXT", "--max-new-tokens", 2, "--topk", 0.5, *BLOCKS),
    ],
    "attention compare": [
        *("attention", "compare", "MODEL", "--data", "TEXT", "--windows", 1, "--seqlen", 128, "--repeats", 1),
        *("--topk", 0.5, *BLOCKS),
    ],
}


def typed(name: str, made: Mapping[str, str], place: Path) -> list[str]:
    """The arguments of a command, with the paths of what is made and where its own output goes."""
    own = {"OUT": str(place / "out"), "FILE.safetensors": str(place / "file.safetensors")}
    return [{**made, **own}.get(str(argument), str(argument)) for argument in COMMANDS[name]]
