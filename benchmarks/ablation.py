"""Structured pruning of SmolLM2-135M with one part of the default exchanged at a time.

    python benchmarks/ablation.py                                   # all of them
    python benchmarks/ablation.py --only "default;no-own-text"      # some

Every cut is calibrated on the first 80 % of WikiText-2's validation split. Perplexity is measured on the last 20 % and
on `pydocs`, which no cut sees. The last line is one JSON object.
"""

import argparse
import copy
import json
import math
import time
from typing import Any

import common
import secateur

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no-compensate": {"compensate": False},
    "no-own-text": {"own_text": 0.0},
    "uniform": {"allocation": "uniform"},
    "inverse, removal": {"allocation": "inverse", "layer_importance": "removal"},
    "inverse, similarity": {"allocation": "inverse", "layer_importance": "similarity"},
    "fisher scores": {"importance": "fisher"},
    "activation scores": {"importance": "activation"},
}


def main() -> None:
    options = parse_options()
    model, tokenizer = secateur.load("smollm2-135m")
    measure = common.perplexities(tokenizer, options.data, options.windows)
    base = measure(model)
    rows = {"uncut": {"ppl": base}}
    for name in options.only or VARIANTS:
        pruned = copy.deepcopy(model)
        start = time.perf_counter()
        secateur.prune(
            pruned,
            tokenizer,
            data=f"{options.data}[:80%]",
            windows=options.samples,
            ratio=options.ratio,
            seed=options.seed,
            **VARIANTS[name],
        )
        seconds = time.perf_counter() - start
        ppl = measure(pruned)
        rise = {text: math.log(ppl[text] / base[text]) for text in common.TEXTS}
        rows[name] = {"ppl": ppl, "rise": rise, "seconds": seconds}
        cells = [f"{text} {ppl[text]:8.2f} (+{rise[text]:.3f})" for text in common.TEXTS]
        print(f"{name:20}", *cells, f"{seconds:6.0f} s", flush=True)
    print(json.dumps(rows))


def parse_options() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--ratio", type=float, default=0.2, help="share of all parameters to remove")
    parser.add_argument("--samples", type=int, default=16, help="calibration windows of 512 tokens")
    parser.add_argument("--windows", type=int, default=20, help="windows of 512 tokens to measure on each text")
    parser.add_argument("--only", type=lambda text: text.split(";"), default=[], help="names of variants, ; between")
    return parser.parse_args()


if __name__ == "__main__":
    main()
