"""Model directories with one thing wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Weights = dict[str, Tensor]


def change_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; `...` takes one out."""
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def change_config(directory: Path, **changes: Any) -> None:
    change_json(directory / "config.json", **changes)


def change_weights(directory: Path, change: Callable[[Weights], Weights]) -> None:
    weights = change(load_file(directory / WEIGHTS))
    save_file({name: weight.clone() for name, weight in weights.items()}, directory / WEIGHTS, {"format": "pt"})


def shard(directory: Path) -> dict[str, str]:
    """Spread a model over two files with an index, and give the index."""
    weights = load_file(directory / WEIGHTS)
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, directory / file, {"format": "pt"})
    (directory / WEIGHTS).unlink()
    index = {name: file for file, part in parts.items() for name in part}
    (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    return index


def quantise(directory: Path, block: int = 16, scale: str = "weight_scale_inv") -> Weights:
    """Store the projections as FP8 with a scale for each block, and give what they stand for."""
    meant: Weights = {}

    def packed(weights: Weights) -> Weights:
        stored: Weights = {}
        for name, weight in weights.items():
            if not name.endswith("proj.weight"):
                stored[name] = meant[name] = weight
                continue
            rows, columns = -(-weight.shape[0] // block), -(-weight.shape[1] // block)
            padded = torch.zeros(rows * block, columns * block)
            padded[: weight.shape[0], : weight.shape[1]] = weight
            blocks = padded.view(rows, block, columns, block)
            scales = blocks.abs().amax((1, 3)).clamp_min(1e-6) / 448  # the largest number in FP8
            small = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
            cut = (slice(weight.shape[0]), slice(weight.shape[1]))
            stored[name] = small.view(padded.shape)[cut].contiguous()
            stored[name.replace("weight", scale)] = scales
            meant[name] = (small.float() * scales[:, None, :, None]).view(padded.shape)[cut]
        return stored

    change_weights(directory, packed)
    return meant
