"""The plan that `search` finds for SmolLM2-135M against `prune`'s own allocation, both at 25 %.

    python benchmarks/search.py                         # calibrated on WikiText-2
    python benchmarks/search.py --calibration pydocs

Both cuts are calibrated on the same windows. Perplexity is measured on the last 20 % of WikiText-2's validation split
and on the test split of `pydocs`. The seconds of the search count its calibration text in, and its scores; the cut by
its plan comes on top. The last line is one JSON object.
"""

import argparse
import copy
import json
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import secateur
from secateur.console import configure_logging
from secateur.pruning.search import SearchConfig


def main() -> None:
    options = parse_options()
    configure_logging()
    logging.getLogger("secateur.pruning.prune").setLevel(logging.WARNING)
    model, tokenizer = secateur.load("smollm2-135m")
    measure = common.perplexities(tokenizer, options.data, options.windows)
    base = measure(model)
    calibration = {"data": options.calibration or f"{options.data}[:80%]", "seed": options.seed}
    start = time.perf_counter()
    found = secateur.search(model, tokenizer, ratio=options.ratio, rounds=options.rounds, **calibration)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as directory:
        plan = Path(directory) / "pruning_plan.json"
        plan.write_text(json.dumps(found.plan.to_dict()))
        cuts: dict[str, dict[str, Any]] = {"default": {"ratio": options.ratio}, "searched": {"plan": str(plan)}}
        rises = {}
        for name, settings in cuts.items():
            cut = copy.deepcopy(model)
            reached = secateur.prune(cut, tokenizer, **settings, **calibration).plan.reached
            measured = measure(cut)
            rises[name] = {text: math.log(measured[text] / base[text]) for text in common.TEXTS}
            cells = [f"{text} {measured[text]:.2f} (+{rises[name][text]:.3f})" for text in common.TEXTS]
            print(f"{name:10}", *cells, f"{reached:.2%} removed", flush=True)
    result = {
        "base_ppl": base,
        "rises": rises,
        "change": {text: rises["searched"][text] / rises["default"][text] - 1 for text in common.TEXTS},
        "divergences": [done.divergence for done in found.rounds],
        "best_round": found.best + 1,
        "seconds": seconds,
        "seconds_by_phase": found.seconds,
        "peak_memory_bytes": found.peak_memory_bytes,
    }
    print(json.dumps(result))


def parse_options() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--ratio", type=float, default=0.25, help="share of all parameters to remove")
    parser.add_argument("--rounds", type=int, default=SearchConfig().rounds, help="rounds of the search")
    parser.add_argument("--windows", type=int, default=40, help="windows of 512 tokens to measure on each text")
    parser.add_argument("--calibration", help="calibration text; the first 80 %% of --data unless given")
    return parser.parse_args()


if __name__ == "__main__":
    main()
