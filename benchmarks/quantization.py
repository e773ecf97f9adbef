"""SmolLM2-135M at 4 bits: to nearest, llm-compressor's GPTQ and secateur's, on the same samples, format and text.

    python benchmarks/quantization.py --samples 64 --windows 40
    python benchmarks/quantization.py --llm-compressor .llm-compressor/bin/python

The rise of log-perplexity of each on text that nothing was fitted to: the last 20 % of WikiText-2's validation split
and the test split of pydocs. Weights in groups of 128, where 576 columns divide by 64 only in groups of 64, with
bfloat16 scales, symmetric. Then a cut of 20 % rounded in the same pass against the same cut rounded afterwards.
llm-compressor needs other releases than secateur, so it has an environment of its own:

    python -m venv .llm-compressor
    .llm-compressor/bin/pip install torch==2.13.0 llmcompressor==0.14.0.1

Without it its row is left out, which is said. The last line is one JSON object.
"""

import argparse
import copy
import json
import logging
import math
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import common
import secateur
from secateur.console import configure_logging
from secateur.data import load_corpus, token_windows
from secateur.models.adapters import adapter_of
from secateur.models.loading import model_directory
from secateur.models.packed_config import quantization_config
from secateur.models.rounded import Rounded, note_rounded
from secateur.rounding.config import group_of
from secateur.rounding.grid import Grid

MODEL = "smollm2-135m"
RUNNER = Path(__file__).with_name("llm_compressor_runner.py")


def main() -> None:
    options = parse_options()
    configure_logging()
    logging.getLogger("secateur").setLevel(logging.WARNING)
    model, tokenizer = secateur.load(MODEL, dtype=options.dtype, device="cpu")
    measure = common.perplexities(tokenizer, options.data, options.windows)
    base, result = measure(model), dict[str, Any]()
    text = {"data": f"{options.data}[:80%]", "windows": options.samples, "seed": options.seed, "own_text": 0.0}
    print(f"{'':34} {'rise on ' + common.TEXTS[0]:>18} {'on ' + common.TEXTS[1]:>12} {'seconds':>9}", flush=True)

    def row(name: str, make: Callable[[], PreTrainedModel]) -> None:
        start = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - start
        rises = {text: math.log(value / base[text]) for text, value in measure(made).items()}
        result[name] = {**rises, "mean": sum(rises.values()) / len(rises), "seconds": seconds}
        print(f"{name:34} {rises['wikitext2']:18.4f} {rises['pydocs']:12.4f} {seconds:9.0f}", flush=True)

    if options.what != "cut":
        row("to nearest", lambda: to_nearest(copy.deepcopy(model), options.layers))
        row("secateur", lambda: changed(model, tokenizer, secateur.quantize, layers=f":{options.layers}", **text))
        if options.llm_compressor.is_file():
            row("llm-compressor", lambda: by_llm_compressor(options, model, tokenizer))
            result["ratio"] = result["secateur"]["mean"] / result["llm-compressor"]["mean"]
        else:
            print(f"llm-compressor is left out: {options.llm_compressor} is missing; see the head of this file")
    if options.what != "rounding":
        cut = {**text, "ratio": 0.2}
        row("cut and rounded in one pass", lambda: changed(model, tokenizer, secateur.prune, quantize=4, **cut))
        smaller = changed(model, tokenizer, secateur.prune, channel_multiple=128, **cut)
        row("cut", lambda: smaller)
        row("cut, then rounded", lambda: changed(smaller, tokenizer, secateur.quantize, **text))
        result["cut ratio"] = result["cut and rounded in one pass"]["mean"] / result["cut, then rounded"]["mean"]
    print(json.dumps({"perplexity": base, **result}))


def changed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, change: Callable[..., Any], **options: Any
) -> PreTrainedModel:
    """A copy of a model, cut or rounded."""
    made = copy.deepcopy(model)
    change(made, tokenizer, **options)
    return made


def to_nearest(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """Each weight of the first layers at the nearest level, the largest of its group within the grid."""
    for layer in adapter_of(model).layers(model)[:layers]:
        for linear in adapter_of(model).projections(layer).values():
            group = group_of("auto", linear.in_features)
            assert group is not None
            grid = Grid(4, group, torch.bfloat16)
            scale = grid.usual_scales(linear.weight)
            levels = grid.levels(linear.weight.detach().float(), scale.repeat_interleave(group, 1))
            note = Rounded(4, group, scale.to(torch.bfloat16))
            linear.weight.data = note.weights(levels, linear.weight.dtype)
            note_rounded(linear, note)
    return model


def by_llm_compressor(
    options: argparse.Namespace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """What llm-compressor makes of the model, with the groups and on the windows that secateur has."""
    windows = token_windows(
        tokenizer, load_corpus(f"{options.data}[:80%]"), 512, limit=options.samples, seed=options.seed
    )
    # The groups as secateur writes them.
    written = quantization_config(to_nearest(copy.deepcopy(model), options.layers))
    groups = {name: written[name] for name in ("config_groups", "ignore")}
    for scheme in groups["config_groups"].values():
        weights = scheme["weights"]
        scheme["weights"] = {
            name: weights[name] for name in ("num_bits", "type", "symmetric", "strategy", "group_size")
        }
        scheme.pop("format", None)
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        save_file({"windows": windows.contiguous()}, here / "windows.safetensors")
        (here / "groups.json").write_text(json.dumps(groups), encoding="utf-8")
        output = here / "model"
        tokenizer.save_pretrained(output)
        files = [here / "windows.safetensors", output, here / "groups.json"]
        command = [options.llm_compressor, RUNNER, model_directory(MODEL), *files]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=place)
        if done.returncode:
            raise SystemExit(f"llm-compressor failed:\n{done.stderr[-2000:]}")
        return secateur.load(output, dtype=options.dtype, device="cpu")[0]


def parse_options() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--samples", type=int, default=64, help="windows of 512 tokens that are fitted to")
    parser.add_argument("--windows", type=int, default=40, help="windows of 512 tokens of each text measured")
    parser.add_argument(
        "--layers", type=int, default=30, help="round only so many layers, the first; not of the cut model"
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--what", default="both", choices=("rounding", "cut", "both"), help="which of the two is done")
    parser.add_argument(
        "--llm-compressor", type=Path, default=common.ROOT / ".llm-compressor" / "bin" / "python", help="its Python"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
