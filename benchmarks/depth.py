"""SmolLM2-135M made narrower, made shallower, and both: perplexity, and tokens per second in llama.cpp.

    python benchmarks/depth.py
    python benchmarks/depth.py --ratios 0.2 --windows 16

`width` leaves something of every half of every layer (`--keep-halves`), `both` is the default cut, `depth` drops whole
halves only (`--target depth`). `shortgpt` is the published way, Men et al. 2024, "ShortGPT": the layers whose input and
output are most alike go, and nothing is re-fitted. All are calibrated on the first 80 % of WikiText-2's validation
split; perplexity is of the last 20 % and of `pydocs`. Each is exported (f16) and decodes in xllamacpp, the models in
turns. The last line is one JSON object: {"ppl": {kind: {ratio: …}}, "tokens_per_second": {kind: {ratio: …}}}.
"""

import argparse
import copy
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import common
import secateur
from llama_cpp import measured
from secateur.console import configure_logging
from secateur.models import count_parameters, layer_widths
from secateur.pruning import PruneConfig
from secateur.pruning.prune import score_layers
from secateur.report import Column, TextTable

KINDS: dict[str, dict[str, Any]] = {"width": {"keep_halves": True}, "both": {}, "depth": {"target": "depth"}}
SHORTGPT = "shortgpt"


def main() -> None:
    options = parse_options()
    configure_logging()
    logging.getLogger("secateur").setLevel(logging.WARNING)
    model, tokenizer = secateur.load("smollm2-135m")
    measure = common.perplexities(tokenizer, options.data, options.windows)
    rows: dict[str, dict[str, Any]] = {"uncut 0": {"ppl": measure(model), "removed": 0.0, "halves": 0}}
    with tempfile.TemporaryDirectory() as directory:
        files = {"uncut 0": exported(model, tokenizer, Path(directory) / "uncut.gguf")}
        for ratio in options.ratios:
            for kind in options.kinds:
                cut = made(model, tokenizer, kind, ratio, options)
                name = f"{kind} {ratio}"
                rows[name] = {
                    "ppl": measure(cut),
                    "removed": 1 - count_parameters(cut) / count_parameters(model),
                    "halves": absent_halves(cut, model),
                }
                files[name] = exported(cut, tokenizer, Path(directory) / f"{kind}-{ratio}.gguf")
        for name, rates in measured(files, options).items():
            rows[name]["tokens_per_second"] = rates["decode"]
    show(rows)
    result: dict[str, dict[str, dict[str, Any]]] = {"ppl": {}, "tokens_per_second": {}}
    for name, row in rows.items():
        kind, ratio = name.split()
        for figure, found in result.items():
            found.setdefault(kind, {})[ratio] = row[figure]
    print(json.dumps(result))


def parse_options() -> argparse.Namespace:
    parser = common.parser(__doc__)
    kinds = [*KINDS, SHORTGPT]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument(
        "--ratios", type=float, nargs="+", default=[0.2, 0.3], help="shares of all parameters to remove"
    )
    parser.add_argument("--samples", type=int, default=PruneConfig().windows, help="calibration windows of 512 tokens")
    parser.add_argument("--windows", type=int, default=64, help="windows of 512 tokens that perplexity is measured on")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def made(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: str, ratio: float, options: argparse.Namespace
) -> PreTrainedModel:
    """A copy of the model with a share of its parameters gone."""
    cut = copy.deepcopy(model)
    shared = {"data": f"{options.data}[:80%]", "windows": options.samples, "seed": options.seed}
    if kind != SHORTGPT:
        secateur.prune(cut, tokenizer, PruneConfig(ratio=ratio, **shared, **KINDS[kind]))
        return cut
    importance = score_layers(cut, tokenizer, PruneConfig(layer_importance="similarity", **shared)).importance
    layers = len(importance)
    by_layer = count_parameters(cut.model.layers) / layers
    count = round(ratio * count_parameters(cut) / by_layer)
    least = sorted(range(layers), key=importance.__getitem__)[:count]
    drop = "layers=" + ",".join(map(str, sorted(least)))
    secateur.prune(cut, tokenizer, PruneConfig(drop=drop, compensate=False, importance="magnitude", **shared))
    return cut


def exported(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> Path:
    secateur.export(model, tokenizer, file, dtype="f16")
    return file


def absent_halves(cut: PreTrainedModel, model: PreTrainedModel) -> int:
    """How many attentions and MLPs of the model are not in the cut one."""
    there = [
        bool(units) for width in layer_widths(cut) for units in (width.num_key_value_heads, width.intermediate_size)
    ]
    return 2 * len(layer_widths(model)) - sum(there)


def show(rows: dict[str, dict[str, Any]]) -> None:
    columns = [
        Column("cut", list(rows), "left"),
        Column("removed", [f"{row['removed']:.1%}" for row in rows.values()]),
        Column("halves gone", [str(row["halves"]) for row in rows.values()]),
        *(Column(text, [f"{row['ppl'][text]:.2f}" for row in rows.values()]) for text in common.TEXTS),
        Column("tokens/s", [f"{row['tokens_per_second']:.1f}" for row in rows.values()]),
    ]
    Console().print(TextTable(columns), soft_wrap=True)


if __name__ == "__main__":
    main()
