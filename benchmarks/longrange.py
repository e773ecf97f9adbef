"""Block-sparse attention with a backward pass against dense attention: time and memory of forward and backward.

    python benchmarks/longrange.py

Float32, batch 8, 2 heads of 32, random blocks and the diagonal, on the CPU; with a CUDA device there. Dense is
PyTorch's `scaled_dot_product_attention`. As it comes it never holds the attention matrix; with attention dropout, which
the tasks' configurations have, it does on the CPU. `memory_ratio` is with that dropout on both sides,
`memory_ratio_fused` without. The last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from secateur.longrange.pattern import BlockPattern
from secateur.longrange.sparse import pattern_attention
from secateur.models.memory import peak_growth

BATCH, HEADS, HEAD_DIM = 8, 2, 32
ATTENTION_DROPOUT = 0.1
CASES = ((4096, 64, 0.02), (1024, 32, 0.05))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = torch.device(options.device)
    result: dict[str, Any] = {"device": options.device}
    print(f"{'tokens':>6} {'density':>8} {'attention':>16} {'ms':>9} {'MB':>9}")
    for length, block, density in CASES:
        pattern = drawn(length, block, density, options.seed, device)
        parts = tensors(length, options.seed, device)
        ways: dict[str, Callable[[], Any]] = {
            "dense": lambda parts=parts: both(functional.scaled_dot_product_attention, *parts),
            "sparse": lambda parts=parts, pattern=pattern: both(pattern_attention, *parts, pattern),
            "dense, dropout": lambda parts=parts: both(
                functional.scaled_dot_product_attention, *parts, None, ATTENTION_DROPOUT
            ),
            "sparse, dropout": lambda parts=parts, pattern=pattern: both(
                pattern_attention, *parts, pattern, None, ATTENTION_DROPOUT, True
            ),
        }
        seconds = timed(ways, options.repeats, device)
        peaks = {name: peak_growth(run, device) for name, run in ways.items()}
        for name in ways:
            share = pattern.density if name.startswith("sparse") else 1
            print(f"{length:6} {share:8.3f} {name:>16} {1e3 * seconds[name]:9.1f} {peaks[name] / 1e6:9.1f}", flush=True)
        result[f"density_{length}"] = pattern.density
        result[f"speedup_{length}"] = seconds["dense"] / seconds["sparse"]
        result[f"memory_ratio_{length}"] = peaks["sparse, dropout"] / peaks["dense, dropout"]
        result[f"memory_ratio_fused_{length}"] = peaks["sparse"] / peaks["dense"]
        result[f"speedup_dropout_{length}"] = seconds["dense, dropout"] / seconds["sparse, dropout"]
    print(json.dumps(result))


def drawn(length: int, block: int, density: float, seed: int, device: torch.device) -> BlockPattern:
    """`density` of all blocks, the diagonal among them."""
    size = length // block
    kept = max(size, round(density * size * size))
    order = torch.rand(size, size, generator=torch.Generator().manual_seed(seed)).fill_diagonal_(2).flatten()
    blocks = torch.zeros(size * size, dtype=torch.bool)
    blocks[order.topk(kept).indices] = True
    return BlockPattern(blocks.view(size, size).to(device), block)


def tensors(length: int, seed: int, device: torch.device) -> list[Tensor]:
    """Queries, keys, values and the output's gradient, (batch, heads, length, head_dim)."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(BATCH, HEADS, length, HEAD_DIM, generator=generator).to(device) for _ in range(4)]
    return [*(part.requires_grad_() for part in parts[:3]), parts[3]]


def both(
    attend: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, of_output: Tensor, *more: Any
) -> Any:
    """Attention forward and backward."""
    return torch.autograd.grad(attend(query, key, value, *more), (query, key, value), of_output)


def timed(ways: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, taking turns, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: sorted(values[1:])[len(values[1:]) // 2] for name, values in seconds.items()}


if __name__ == "__main__":
    main()
