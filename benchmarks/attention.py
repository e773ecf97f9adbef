"""Sparse attention of SmolLM2-135M: what can be left out, what tuning takes, what it costs and what it saves.

    python benchmarks/attention.py

Tuned on the first 80 % of WikiText-2's validation split, measured on its last 20 %, in bfloat16. With a CUDA device the
kernels are also timed against PyTorch's attention, head size 128, four query heads to a key/value head. The last line
is one JSON object.
"""

import functools
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import common
import secateur
from secateur.attention import AttentionProfile, TuneConfig, apply, block_sparse_attention, heldout_errors, remove, tune
from secateur.attention.against_dense import compare_windows, first_token_seconds
from secateur.attention.hook import watching
from secateur.attention.rules import Rule, rules_of
from secateur.attention.sparse import sparse_attention
from secateur.console import configure_logging
from secateur.data import load_corpus, token_windows
from secateur.kernels.grid import BlockGrid
from secateur.models import adapter_of

BISECTION_CALLS = 640
LONG = 8192


def main() -> None:
    options = parse_options()
    configure_logging()
    logging.getLogger("secateur").setLevel(logging.WARNING)
    model, tokenizer = secateur.load("smollm2-135m", dtype="bfloat16", device=options.device)
    corpus = load_corpus(f"{options.data}[80%:]")
    others = token_windows(tokenizer, corpus, options.seqlen, limit=options.windows, seed=options.seed)
    result: dict[str, Any] = {}
    # SpargeAttention's rule as published fixes no block, takes what skips most, and finds most with its guard off.
    for name, blocks in (
        ("mean_similarity", {"predictor": "mean-similarity", "simthreshd": -1.0, "keep_ends": False, "price": 0.0}),
        ("mean_similarity_with_ends", {"predictor": "mean-similarity", "simthreshd": -1.0}),
        ("sampled", {}),
    ):
        profile, seconds = tuned(model, tokenizer, options, blocks)
        errors = heldout_errors(model, others, profile)
        result[f"sparsity_{name}"] = float(errors.sparsity.mean())
        show(f"sparsity, {name}", f"{errors.sparsity.mean():.3f}", f"tuned in {seconds:.1f} s")
    used = errors.sparsity > 0
    result["heldout_l1"] = float(errors.error[used].mean())
    result["heldout_l1_of_heads"] = quantiles(errors.error[used])
    result["heldout_pv_l1"] = float(errors.pv_error[used].mean())
    show("heldout l1", f"{result['heldout_l1']:.4f}", f"heads at 50, 90, 100 %: {result['heldout_l1_of_heads']}")
    result.update(tuning_cost(model, tokenizer, options, seconds))
    result.update(long_prefill(model, token_windows(tokenizer, corpus, LONG, limit=1), profile))
    comparison = compare_windows(model, others, lambda: apply(model, profile))
    result.update(logits_cosine=comparison.logits_cosine, ppl_ratio=comparison.to_dict()["ppl_ratio"])
    result["greedy_agreement"] = comparison.greedy_agreement
    show("cosine of logits", f"{comparison.logits_cosine:.4f}")
    show("perplexity, ratio", f"{result['ppl_ratio']:.4f}", f"{comparison.perplexity:.2f} dense")
    if model.device.type == "cuda":
        result["kernels"] = kernel_table(model.device)
    print(json.dumps(result))


def parse_options() -> Any:
    parser = common.parser(__doc__)
    parser.add_argument("--samples", type=int, default=5, help="windows to tune on")
    parser.add_argument("--windows", type=int, default=3, help="windows to measure on")
    parser.add_argument("--seqlen", type=int, default=4096, help="tokens in each")
    parser.add_argument("--l1", type=float, default=0.06)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def tuned(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any, blocks: dict[str, Any]
) -> tuple[AttentionProfile, float]:
    """A profile, and the seconds it took."""
    config = TuneConfig(
        data=f"{options.data}[:80%]",
        windows=options.samples,
        seqlen=options.seqlen,
        seed=options.seed,
        l1=options.l1,
        pv_l1=options.l1 * 7 / 6,
        **blocks,
    )
    wait(model.device)
    start = time.perf_counter()
    profile = tune(model, tokenizer, config)
    wait(model.device)
    return profile, time.perf_counter() - start


@torch.no_grad()
def tuning_cost(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Any, seconds: float
) -> dict[str, float]:
    """Tuning against dense prefills of the same windows, and against what bisection would run."""
    corpus = load_corpus(f"{options.data}[:80%]", "train")
    windows = token_windows(tokenizer, corpus, options.seqlen, limit=options.samples, seed=options.seed)
    body = adapter_of(model).body(model)
    prefill = sum(best_of(1, body, window[None].to(model.device)) for window in windows)
    attention = sum(best_of(1, dense, *parts) for window in windows for parts in captured(model, window[None]))
    ratio = seconds / prefill
    bisection = BISECTION_CALLS * attention
    show("tuning", f"{ratio:.2f}", f"dense prefills of {prefill:.1f} s; attention by bisection {bisection:,.0f} s")
    return {
        "tuning_over_dense_prefill": ratio,
        "tuning_seconds": seconds,
        "dense_prefill_seconds": prefill,
        "bisection_seconds": bisection,
    }


@torch.no_grad()
def long_prefill(model: PreTrainedModel, window: Tensor, profile: AttentionProfile) -> dict[str, float]:
    """Attention alone and the whole prefill at 8192 tokens, sparse against dense."""
    rules = rules_of(profile, len(adapter_of(model).layers(model)), "auto", {})
    dense_seconds, sparse_seconds, densities = 0.0, 0.0, []
    for index, parts in enumerate(captured(model, window)):
        seconds = best_of(3, dense, *parts)
        dense_seconds += seconds
        if index not in rules:
            sparse_seconds += seconds
            densities.append(1.0)
            continue
        sparse_seconds += best_of(3, sparse, *parts, rules[index])
        densities.append(1 - float(sparse(*parts, rules[index])[1].mean()))
    density = sum(densities) / len(densities)
    before = first_token_seconds(model, window, 3)
    apply(model, profile)
    after = first_token_seconds(model, window, 3)
    remove(model)
    speedup = dense_seconds / sparse_seconds
    show("attention at 8k", f"{speedup:.2f}×", f"density {density:.3f}: {speedup * density:.2f} / density")
    show("prefill at 8k", f"{before / after:.2f}×", f"{before:.2f} s dense, of which attention {dense_seconds:.2f} s")
    return {
        "attention_speedup_8k": speedup,
        "density_8k": density,
        "prefill_speedup_8k": before / after,
        "dense_attention_seconds_8k": dense_seconds,
        "dense_prefill_seconds_8k": before,
    }


def captured(model: PreTrainedModel, window: Tensor) -> list[tuple[Tensor, Tensor, Tensor, float]]:
    """Each layer's queries, keys, values and scale for one window (1, seq)."""
    seen: list[tuple[Tensor, Tensor, Tensor, float]] = []
    with watching(model, lambda index, *parts: seen.append(parts)), torch.no_grad():
        adapter_of(model).body(model)(window.to(model.device), use_cache=False)
    return seen


def dense(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)


def sparse(query: Tensor, key: Tensor, value: Tensor, scale: float, rule: Rule) -> tuple[Tensor, Tensor]:
    return sparse_attention(query, key, value, rule, True, scale)


@torch.no_grad()
def kernel_table(device: torch.device) -> list[dict[str, Any]]:
    """Seconds of each kernel at several lengths and densities, 32 query heads over 8 of keys and values."""
    rows = []
    for length in (8192, 32768, 131072):
        query, key, value = (torch.randn(1, heads, length, 128, device=device).bfloat16() for heads in (32, 8, 8))
        parts = (query, key, value)
        base = {}
        for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
            with sdpa_kernel(backend):
                base[name] = best_of(5, dense, *parts, 128**-0.5)
        grid = BlockGrid(length, length, True)
        for share in (0.5, 0.25, 0.1):
            drawn = torch.rand(1, 32, grid.rows, grid.columns, device=device) < share
            blocks = (drawn | grid.fixed(device)) & grid.visible(device)
            density = 1 - float(grid.sparsity(blocks).mean())
            row: dict[str, Any] = {"tokens": length, "density": density, **base}
            for kernel, int8 in (("flex", False), ("triton", False), ("triton", True)):
                run = functools.partial(block_sparse_attention, backend=kernel, int8=int8)
                row[kernel + "-int8" * int8] = best_of(5, run, *parts, blocks, True)
            fastest = min(base.values()) / min(row["triton"], row["flex"])
            show(f"{length} tokens", f"{fastest:.2f}×", f"density {density:.3f}: {fastest * density:.2f} / density")
            show("", "", str(row))
            rows.append(row)
    return rows


def best_of(repeats: int, run: Callable[..., Any], *arguments: Any) -> float:
    """The least seconds of several runs, after one to warm up."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seconds = []
    for _ in range(repeats + 1):
        wait(device)
        start = time.perf_counter()
        run(*arguments)
        wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quantiles(values: Tensor) -> list[float]:
    return [round(float(values.double().quantile(share)), 4) for share in (0.5, 0.9, 1.0)]


def show(name: str, figure: str, note: str = "") -> None:
    print(f"{name:28} {figure:>9}  {note}", flush=True)


if __name__ == "__main__":
    main()
