"""Tiny models whose number formats llama.cpp's own quantiser was asked for; its answers are in `quantised_cases.json`.

Recorded with `llama_model_quantize` of llama.cpp 0.5.0 (ggml 0.25.1, the npm package @node-llama-cpp/linux-x64 3.22.1),
called on the files that `export(dtype="f32")` writes of these models.
"""

import re
from collections.abc import Iterable
from typing import Any

import torch
from family_models import make_family
from transformers import PreTrainedModel

from uneven import cut_unevenly

WIDE = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 32, "num_key_value_heads": 2}
ALL = ["f16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_0", "q4_k_m", "q4_k_s", "q4_0", "q3_k_l", "q3_k_m", "q2_k"]
SOME = ["q4_k_m", "q4_k_s", "q3_k_m", "q2_k"]
# By name: family, how it is cut, settings, formats.
CASES: dict[str, tuple[str, str, dict[str, Any], list[str]]] = {
    "wide": ("llama", "uncut", {**WIDE, "num_hidden_layers": 17, "tie_word_embeddings": False}, ALL),
    "80 layers": ("llama", "uncut", {**WIDE, "num_hidden_layers": 80}, SOME),
    "80 layers of qwen2": ("qwen2", "uncut", {**WIDE, "num_hidden_layers": 80}, SOME),
    "uneven": ("llama", "uneven", {}, ALL),
    "uneven and wide": ("llama", "multiples", {**WIDE, "intermediate_size": 512, "num_hidden_layers": 9}, ["q4_k_m"]),
    "rows of two projections": ("phi3", "uncut", {}, SOME),
    "queries, keys and values in one": ("gpt_neox", "uncut", {**WIDE, "num_attention_heads": 8}, SOME),
    "linear attention": ("qwen3_5_text", "uncut", {"hidden_size": 256}, SOME),
}
MULTIPLES = [(2, 512), (1, 256), (2, 512), (2, 256), (1, 512), (2, 256), (2, 512), (2, 512), (1, 256)]


def model_of(case: str) -> PreTrainedModel:
    """The model; one of many layers without weights, of which the shapes say all, with tied embeddings."""
    family, cut, settings, _ = CASES[case]
    if settings.get("num_hidden_layers") == 80:
        with torch.device("meta"):
            return make_family(family, cut, **settings)
    if cut == "multiples":
        return cut_unevenly(make_family(family, "uncut", **settings), MULTIPLES)
    return make_family(family, cut, **settings)


def summary(formats: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names and formats of tensors as one line for each sort, layer by layer: `{"ffn_down": "q6_k q4_k*3"}`."""
    by_sort: dict[str, list[tuple[int, str]]] = {}
    for name, kind in formats:
        layer = re.match(r"blk\.(\d+)\.", name)
        sort = name[layer.end() :] if layer else name
        if kind != "f32":  # vectors
            by_sort.setdefault(sort.removesuffix(".weight"), []).append((int(layer[1]) if layer else -1, kind))
    return {sort: _runs([kind for _, kind in sorted(found)]) for sort, found in sorted(by_sort.items())}


def _runs(kinds: list[str]) -> str:
    runs: list[tuple[str, int]] = []
    for kind in kinds:
        before = runs.pop() if runs and runs[-1][0] == kind else (kind, 0)
        runs.append((kind, before[1] + 1))
    return " ".join(kind if count == 1 else f"{kind}*{count}" for kind, count in runs)
