"""Figures of runs as they look: many layers, several texts, long names."""

import math
from typing import Any

TEXTS = {"pydocs": "pydocs, test split", "/data/texts/garden_text.txt[80%:]": "the file garden_text.txt, from 80% on"}
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TASK = "hellaswag"


def model(name: str, perplexity: float, parameters: int = 134_515_008, **more: Any) -> dict[str, Any]:
    """A model's figures as `metrics.json` has them."""
    perplexities = {text: perplexity * (1 + index) for index, text in enumerate(TEXTS)}
    score = {"metrics": {"acc": 0.4, "acc_norm": 0.45}, "stderr": {"acc": 0.02}, "n": 400, "n_shot": 0, "prompts": "p"}
    return {
        "name": name,
        "parameters": parameters,
        "family": "llama, 576 wide, 49,152 tokens",
        "perplexity": perplexities,
        "windows": dict.fromkeys(TEXTS, 40),
        "corpora": TEXTS,
        "seqlen": 512,
        "stride": None,
        "sparsity": 0.0,
        "size_bytes": 2 * parameters,
        "peak_memory_bytes": 1_234_567_890,
        "prefill_tokens_per_second": 712.3,
        "decode_tokens_per_second": 16.24,
        "tasks": {TASK: score, "winogrande": score},
        "samples": [{"prompt": "The for statement is", "continuation": f" used to iterate ({name})"}],
        "values": {},
        "recovers": None,
        **more,
    }


def plan(layers: int = 30, frozen: tuple[int, ...] = (0, 29), **settings: Any) -> dict[str, Any]:
    """A `pruning_plan.json`."""

    def layer(index: int) -> dict[str, Any]:
        cut = 0.0 if index in frozen else 0.3 + 0.25 * math.sin(index)
        return {
            "layer": index,
            "importance": 0.02 + 0.3 * math.exp(-index / 3),
            "num_key_value_heads": [3, 3 if index in frozen else 2],
            "num_attention_heads": [9, 9 if index in frozen else 6],
            "intermediate_size": [1536, round(1536 * (1 - cut))],
            "rate": cut,
            "attention_rate": 0.0 if index in frozen else 1 / 3,
            "mlp_rate": cut,
            "frozen": index in frozen,
        }

    return {
        "ratio": 0.2,
        "reached": 0.1987,
        "parameters_before": 134_515_008,
        "parameters_after": 107_789_000,
        "calibration": "32 windows of pydocs, train split",
        "layers": [layer(index) for index in range(layers)],
        "settings": {"allocation": "global", "max_rate": 0.8, "min_rate": 0.0, "even": False, "plan": None, **settings},
    }


def importance(layers: int = 30) -> dict[str, Any]:
    """A `layer_importance.json`."""
    return {
        "method": "removal",
        "unit": "rise of log-perplexity without the layer (nats per token)",
        "importance": [0.02 + 0.3 * math.exp(-index / 3) for index in range(layers)],
        "corpus": "pydocs, train split",
        "windows": 8,
    }


def zeros(layers: int = 30, pattern: str | None = "2:4") -> dict[str, Any]:
    """A `sparsity.json`."""
    matrices = [
        {
            "layer": layer,
            "name": name,
            "shape": [576, 576],
            "zeros": 165_888,
            "sparsity": 0.5 if pattern else 0.45 + 0.1 * math.sin(layer) ** 2,
            "pattern": pattern,
            "norm_lost": 0.05 + 0.002 * layer + 0.01 * number,
        }
        for layer in range(layers)
        for number, name in enumerate(PROJECTIONS)
    ]
    return {"matrices": matrices, "asked": 0.5, "reached": 0.5, "zeros": 34_836_480, "calibration": "pydocs"}


def metrics() -> dict[str, Any]:
    """A `metrics.json` of a run that prunes, sparsifies and recovers."""
    text = {"role": "evaluation", "name": "pydocs", "source": "pydocs", "figure": "perplexity on pydocs"}
    history = [{"step": step, "loss": 2.4 + math.exp(-step / 20)} for step in range(1, 120, 2)]
    return {
        "name": "smollm2-prune",
        "model": "smollm2-135m",
        "seed": 0,
        "models": [
            model("original", 18.42),
            model("pruned", 31.77, 107_789_000),
            model("sparse", 48.1, 107_789_000, sparsity=0.5),
            model("recovered", 22.9, 107_789_000, sparsity=0.5, recovers="sparse"),
        ],
        "sample_tokens": 32,
        "texts": [{**text, "amount": "40 windows of 512 tokens", "description": "pydocs, test split"}],
        "training": {
            "history": [*history, *({"step": step, "eval_loss": 2.6} for step in (1, 60, 119))],
            "corpus": "pydocs, train split",
            "settings": {"teacher": "smollm2-135m"},
        },
        "commands": [
            {"purpose": "The whole run", "command": "secateur run examples/smollm2-prune.yaml -o " + "x" * 90}
        ],
        "seconds": {"prune": 61.0, "recover": 366.0},
        "versions": {"torch": "2.13.0"},
        "machine": {"cores": 2, "processor": "x86_64"},
    }


def sweep_rows(count: int = 4) -> list[dict[str, Any]]:
    """Rows of a comparison: an original, and stages under swept values."""
    rows = [model("original", 18.42, family="llama, 576 wide, 49,152 tokens")]
    for number in range(count):
        values = {"prune.ratio": (1 + number) / 10}
        size = round(134_515_008 * (1 - 0.1 * (1 + number)))
        rows.append(model("smollm2-prune/pruned", 20.0 * (1.3 + number), size, values=values))
        rows.append(model("recovered", 18.0 * (1.1 + number / 3), size, values=values, recovers="smollm2-prune/pruned"))
    return rows
