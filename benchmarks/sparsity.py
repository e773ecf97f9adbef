"""Weight sparsity of SmolLM2-135M: magnitude, Wanda and SparseGPT against the default, and what training wins back.

    python benchmarks/sparsity.py             # the cuts alone
    python benchmarks/sparsity.py --recover   # and masked-lora after the default cut at 50 %

Calibrated on the first 80 % of WikiText-2's validation split, measured on its last 20 %, in bfloat16. Wanda is timed
against the loop of its paper's code: one sample at a time, every layer run twice. With `--recover` the recipe
`examples/smollm2-sparse.yaml` trains the default cut twice: on the calibration text (`recovered@0.5`), and, cut and
trained on its own text, as it stands (`demo`). The last line is one JSON object.
"""

import argparse
import copy
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import common
import secateur
from secateur.calibration.streaming import layer_arguments
from secateur.console import configure_logging
from secateur.data import load_corpus, token_windows
from secateur.evaluation import perplexity
from secateur.models import adapter_of
from secateur.models.masks import share_of_zeros
from secateur.runs.recipe import load_recipe
from secateur.sparsity import SparsifyConfig

RECIPE = common.ROOT / "examples" / "smollm2-sparse.yaml"
CUTS: dict[str, dict[str, Any]] = {
    "magnitude@0.5": {"method": "magnitude"},
    "wanda@0.5": {"method": "wanda"},
    "sparsegpt@0.5": {"method": "sparsegpt"},
    "default@0.5": {},
    "wanda@2:4": {"method": "wanda", "pattern": "2:4"},
    "sparsegpt@2:4": {"method": "sparsegpt", "pattern": "2:4"},
    "default@2:4": {"pattern": "2:4"},
}


def main() -> None:
    options = parse_options()
    configure_logging()
    logging.getLogger("secateur").setLevel(logging.WARNING)
    model, tokenizer = secateur.load("smollm2-135m", dtype="bfloat16", device=options.device)
    text = {"data": f"{options.data}[:80%]", "windows": options.samples, "seed": options.seed}
    measured = token_windows(tokenizer, load_corpus(f"{options.data}[80%:]"), 512, limit=options.windows)
    ppl = {"base": perplexity(model, measured)}
    result: dict[str, Any] = {"ppl": ppl, "seconds": {}, "peak_memory_bytes": {}, "sparsity": {}}
    show("base", ppl)
    default = model
    for name, settings in CUTS.items():
        sparse, done, seconds = cut(model, tokenizer, SparsifyConfig(**text, **settings))
        ppl[name] = perplexity(sparse, measured)
        result["seconds"][name], result["peak_memory_bytes"][name] = seconds, done.peak_memory_bytes
        result["sparsity"][name] = done.reached
        show(name, ppl, f"{seconds:.0f} s, {done.peak_memory_bytes / 1e9:.2f} GB")
        if name == "default@0.5":
            default = sparse
    result["speedup_over_reference"] = speedup(model, tokenizer, SparsifyConfig(**text, method="wanda"), measured, ppl)
    show(
        "wanda, reference loop",
        {**ppl, "wanda, reference loop": ppl["reference wanda@0.5"]},
        f"{result['speedup_over_reference']:.2f} times the seconds",
    )
    if options.recover:
        before = share_of_zeros(default)
        trained, seconds = recover(default, tokenizer, model, {"data": text["data"], "seed": options.seed})
        ppl["recovered@0.5"] = perplexity(trained, measured)
        result["seconds"]["recovered@0.5"] = seconds
        result["sparsity_before_recovery"], result["sparsity_after_recovery"] = before, share_of_zeros(trained)
        result["share_of_rise_gone"] = gone(ppl["base"], ppl["default@0.5"], ppl["recovered@0.5"])
        show("recovered@0.5", ppl, f"{seconds:.0f} s, {result['share_of_rise_gone']:.0%} of the rise gone")
        result["demo"] = demo(model, tokenizer, options.seed)
    print(json.dumps(result))


def parse_options() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--samples", type=int, default=64, help="calibration windows of 512 tokens")
    parser.add_argument("--windows", type=int, default=None, help="windows of 512 tokens to measure on; all by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--recover", action="store_true", help="also train, by the recipe examples/smollm2-sparse.yaml")
    return parser.parse_args()


def cut(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SparsifyConfig
) -> tuple[PreTrainedModel, Any, float]:
    """A copy of the model with zeros, the record of the cut, and its seconds."""
    sparse = copy.deepcopy(model)
    start = time.perf_counter()
    done = secateur.sparsify(sparse, tokenizer, config)
    return sparse, done, time.perf_counter() - start


def recover(
    sparse: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, teacher: PreTrainedModel, changes: dict[str, Any]
) -> tuple[PreTrainedModel, float]:
    """The model after the recipe's training, and its seconds."""
    config = load_recipe(RECIPE).recover
    assert config is not None
    config = config.model_copy(update={"teacher": None, **changes})
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        done = secateur.recover(copy.deepcopy(sparse), tokenizer, Path(directory) / "out", config, teacher=teacher)
    return done.model, time.perf_counter() - start


def demo(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> dict[str, Any]:
    """The recipe as it stands: cut, trained and measured on parts of its own text."""
    recipe = load_recipe(RECIPE)
    assert recipe.sparsify is not None and recipe.recover is not None
    windows = token_windows(tokenizer, load_corpus(recipe.evaluate.data[0], "test"), 512, limit=recipe.evaluate.windows)
    sparse, _, _ = cut(model, tokenizer, recipe.sparsify.model_copy(update={"seed": seed}))
    trained, seconds = recover(sparse, tokenizer, model, {"seed": seed})
    ppl = [perplexity(stage, windows) for stage in (model, sparse, trained)]
    share = gone(*ppl)
    print(f"{'demo':24} pydocs {ppl[0]:.2f} → {ppl[1]:.2f} → {ppl[2]:.2f}, {share:.0%} of the rise gone", flush=True)
    names = ("base", "default@0.5", "recovered@0.5")
    return {"ppl": dict(zip(names, ppl, strict=True)), "share_of_rise_gone": share, "seconds": seconds}


def speedup(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: SparsifyConfig,
    measured: Tensor,
    ppl: dict[str, float],
) -> float:
    """How many times as long the reference's loop takes for the same cut; its perplexity goes into `ppl`.

    Both are timed here, the second time that each is run, so that neither pays for the warming up.
    """
    corpus = load_corpus(config.data, "train")
    windows = token_windows(tokenizer, corpus, config.seqlen, limit=config.windows, seed=config.seed)
    few = config.model_copy(update={"windows": 4})
    cut(model, tokenizer, few)
    reference_wanda(copy.deepcopy(model), windows[:4])
    _, _, ours = cut(model, tokenizer, config)
    plain = copy.deepcopy(model)
    start = time.perf_counter()
    reference_wanda(plain, windows)
    theirs = time.perf_counter() - start
    ppl["reference wanda@0.5"] = perplexity(plain, measured)
    return theirs / ours


@torch.no_grad()
def reference_wanda(model: PreTrainedModel, windows: Tensor) -> None:
    """Wanda at 50 % as its paper's code does it: one sample at a time, each layer run twice."""
    adapter = adapter_of(model)
    place = model.device
    hidden = [model.get_input_embeddings()(window[None].to(place)) for window in windows]
    arguments = layer_arguments(model, windows[:1].to(place))
    for layer, extra in zip(adapter.layers(model), arguments, strict=True):
        squares: dict[nn.Linear, Tensor] = {}

        def collect(linear: nn.Linear, squares: dict[nn.Linear, Tensor]) -> Callable[..., None]:
            def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                norms = torch.norm(inputs[0].flatten(0, 1).t().float(), p=2, dim=1) ** 2
                squares[linear] = squares.get(linear, 0) + norms

            return hook

        linears = list(adapter.projections(layer).values())
        handles = [linear.register_forward_hook(collect(linear, squares)) for linear in linears]
        for sample in hidden:
            layer(sample, **extra)
        for handle in handles:
            handle.remove()
        for linear in linears:
            scores = linear.weight.abs() * squares[linear].sqrt()
            lowest = torch.sort(scores, dim=-1, stable=True)[1][:, : scores.shape[1] // 2]
            linear.weight[torch.zeros_like(scores, dtype=torch.bool).scatter_(1, lowest, True)] = 0
        outputs = [layer(sample, **extra) for sample in hidden]
        hidden = [output[0] if isinstance(output, tuple) else output for output in outputs]


def gone(base: float, cut: float, recovered: float) -> float:
    """Share of the rise of log-perplexity that training has taken away."""
    return math.log(cut / recovered) / math.log(cut / base)


def show(name: str, ppl: dict[str, float], note: str = "") -> None:
    print(f"{name:24} {ppl[name]:9.2f}  {note}", flush=True)


if __name__ == "__main__":
    main()
