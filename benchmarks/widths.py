"""Milliseconds of a decoded token in llama.cpp by `measure-widths` against measured ones, of cuts never timed before.

    python benchmarks/widths.py
    python benchmarks/widths.py --cuts 5 --rounds 40

The cuts are drawn: each layer's GQA groups and MLP channels between a fifth of them and all. Their weights mean
nothing, since time does not depend on values. The times of widths are those that are kept of this machine, or measured
first; the model uncut and the cuts are then timed in turns. The last line is one JSON object.
"""

import argparse
import json
import random
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from secateur.costs import Targets
from secateur.costs.latency import times_here
from secateur.costs.llama_cpp import LlamaCppDecoders
from secateur.costs.timing import settled
from secateur.costs.widths import bare_model, of_widths
from secateur.models.loading import load_settings
from secateur.models.widths import LayerWidths, layer_widths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--cuts", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=3, help="decoded in a turn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config, tokenizer = load_settings(options.model)
    bare = bare_model(config)
    times = times_here(bare, tokenizer, Targets(engine="llama.cpp"))
    generator = random.Random(options.seed)
    cuts = {"uncut": layer_widths(bare), **{f"cut {n}": drawn(bare, generator) for n in range(1, options.cuts + 1)}}
    models = {name: of_widths(bare, widths) for name, widths in cuts.items()}
    predicted = {name: times.measure(model, 0.0, "").whole for name, model in models.items()}
    turns: dict[str, list[float]] = {name: [] for name in models}
    with (
        tempfile.TemporaryDirectory() as directory,
        LlamaCppDecoders(models, tokenizer, Path(directory), times.place) as ready,
    ):
        for decode in ready.values():
            decode(2)
        for _ in range(options.rounds):
            for name, decode in ready.items():
                turns[name].append(1000 * decode(options.tokens))
    measured, spread = settled(turns)
    # Other programs slow all models alike: what is compared is each by the uncut model.
    pace = measured["uncut"] / predicted["uncut"]
    print(f"{'':8}{'predicted ms':>14}{'measured ms':>13}{'error':>8}{'at the same pace':>18}")
    for name in models:
        off, paced = (factor * predicted[name] / measured[name] - 1 for factor in (1, pace))
        print(f"{name:8}{predicted[name]:14.2f}{measured[name]:13.2f}{off:+8.1%}{paced:+18.1%}")
    errors = {name: pace * predicted[name] / measured[name] - 1 for name in models if name != "uncut"}
    result = {
        "predicted_ms": predicted,
        "measured_ms": measured,
        "pace": pace,
        "worst_error_at_pace": max(map(abs, errors.values())),
        "mean_error_at_pace": statistics.mean(map(abs, errors.values())),
        "worst_error": max(abs(predicted[name] / measured[name] - 1) for name in errors),
        "spread": spread,
        "threads": times.place.threads,
    }
    print(json.dumps(result))


def drawn(bare: PreTrainedModel, generator: random.Random) -> list[LayerWidths]:
    """Widths of a cut."""
    found = []
    for width in layer_widths(bare):
        groups = generator.randint(1, width.num_key_value_heads)
        heads = width.num_attention_heads // width.num_key_value_heads * groups
        channels = 32 * generator.randint(width.intermediate_size // 160, width.intermediate_size // 32)
        found.append(replace(width, num_attention_heads=heads, num_key_value_heads=groups, intermediate_size=channels))
    return found


if __name__ == "__main__":
    main()
