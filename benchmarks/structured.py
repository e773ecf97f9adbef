"""Structured pruning of SmolLM2-135M: the classic GQA-aware method against the default, and what training wins back.

    python benchmarks/structured.py             # the cut alone
    python benchmarks/structured.py --recover   # and LoRA trained on WikiText-2, alone and with a teacher

Both cuts are calibrated on the first 80 % of WikiText-2's validation split, the default one on as many windows in all,
half of them written by the model itself. Perplexity is measured on the last 20 % and on `pydocs`, which neither cuts
nor trainings see. The last line is one JSON object.
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

from transformers import PreTrainedModel, PreTrainedTokenizerBase

import common
import secateur
from secateur.console import configure_logging
from secateur.pruning import PruneConfig
from secateur.runs.recipe import load_recipe

CLASSIC = {"importance": "taylor", "allocation": "inverse", "compensate": False, "own_text": 0.0}


def main() -> None:
    options = parse_options()
    configure_logging()
    logging.getLogger("secateur").setLevel(logging.WARNING)
    model, tokenizer = secateur.load("smollm2-135m")
    measure = common.perplexities(tokenizer, options.data, options.windows)
    base = measure(model)
    show("uncut", base)
    calibration = {"data": f"{options.data}[:80%]", "windows": options.samples, "ratio": options.ratio}
    cuts = {}
    for name, settings in (("classic", CLASSIC), ("default", {})):
        cuts[name] = cut(model, tokenizer, PruneConfig(**calibration, **settings, seed=options.seed))
        cuts[name]["ppl"] = measure(cuts[name]["model"])
        show(name, cuts[name]["ppl"], base, f"{cuts[name]['seconds']:.0f} s, {cuts[name]['removed']:.1%} removed")
    ratios = {
        name: rise(cuts["default"]["ppl"], base, name) / rise(cuts["classic"]["ppl"], base, name)
        for name in common.TEXTS
    }
    result: dict[str, Any] = {
        "base_ppl": base["wikitext2"],
        "classic_ppl": cuts["classic"]["ppl"]["wikitext2"],
        "default_ppl": cuts["default"]["ppl"]["wikitext2"],
        "rise_ratio": ratios["wikitext2"],
        "pydocs": {
            "base_ppl": base["pydocs"],
            "classic_ppl": cuts["classic"]["ppl"]["pydocs"],
            "default_ppl": cuts["default"]["ppl"]["pydocs"],
            "rise_ratio": ratios["pydocs"],
        },
        "seconds": {name: done["seconds"] for name, done in cuts.items()},
        "peak_memory_bytes": {name: done["peak_memory_bytes"] for name, done in cuts.items()},
        "removed": {name: done["removed"] for name, done in cuts.items()},
    }
    if options.recover:
        pruned = cuts["default"]
        result["recovered"] = {}
        for name, teacher in (("lora", None), ("lora+teacher", model)):
            trained, seconds = recover(pruned["model"], tokenizer, teacher, options)
            ppl = measure(trained)
            gone = {text: 1 - rise(ppl, base, text) / rise(pruned["ppl"], base, text) for text in common.TEXTS}
            show(name, ppl, base, f"{seconds:.0f} s")
            result["recovered"][name] = {"ppl": ppl, "share_of_rise_gone": gone, "seconds": seconds}
    print(json.dumps(result))


def parse_options() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--ratio", type=float, default=0.2, help="share of all parameters to remove")
    parser.add_argument("--samples", type=int, default=PruneConfig().windows, help="calibration windows of 512 tokens")
    parser.add_argument("--windows", type=int, default=40, help="windows of 512 tokens to measure on each text")
    parser.add_argument("--recover", action="store_true", help="also train, with the demo's settings, on WikiText-2")
    return parser.parse_args()


def cut(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PruneConfig) -> dict[str, Any]:
    """A pruned copy of the model, and what it took."""
    pruned = copy.deepcopy(model)
    start = time.perf_counter()
    done = secateur.prune(pruned, tokenizer, config)
    return {
        "model": pruned,
        "seconds": time.perf_counter() - start,
        "peak_memory_bytes": done.peak_memory_bytes,
        "removed": done.plan.reached,
    }


def recover(
    pruned: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel | None,
    options: argparse.Namespace,
) -> tuple[PreTrainedModel, float]:
    """The pruned model after the demo's training, on WikiText-2 instead of the demo's text."""
    recipe = load_recipe(common.ROOT / "examples" / "smollm2-prune.yaml")
    if recipe.recover is None:
        raise SystemExit("the demo's recipe has no recover section")
    config = recipe.recover.model_copy(
        update={
            "data": f"{options.data}[:80%]",
            "teacher": None,
            "seed": options.seed,
            "extra_eval": [],
        }
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        done = secateur.recover(
            copy.deepcopy(pruned), tokenizer, Path(directory) / "recovered", config, teacher=teacher
        )
    return done.model, time.perf_counter() - start


def rise(ppl: dict[str, float], base: dict[str, float], text: str) -> float:
    """Rise of log-perplexity over the uncut model."""
    return math.log(ppl[text] / base[text])


def show(name: str, ppl: dict[str, float], base: dict[str, float] | None = None, note: str = "") -> None:
    cells = [
        f"{text} {value:8.2f}" + (f" (+{rise(ppl, base, text):.3f})" if base else "") for text, value in ppl.items()
    ]
    print(f"{name:14}", *cells, note, flush=True)


if __name__ == "__main__":
    main()
