"""Rotary positions in `config.json` under the keys that programs before Transformers 5 read.

Transformers 5 writes `rope_parameters` alone. Transformers 4, mlx-lm and others know `rope_theta` and `rope_scaling` at
the top level, and take a base of 10000 without a word where they find none.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur import files


def add_older_rope_keys(directory: Path) -> None:
    """Write `rope_theta` and `rope_scaling` into a model directory's `config.json`, beside its `rope_parameters`.

    A config whose rotary positions differ from one kind of layer to another has no such keys and stays as it is.

    Raises:
        OutputError: the file cannot be written.
    """
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    older = older_rope_keys(config)
    if older:
        files.write_json(file, {**config, **older})


def older_rope_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys at the top level that say what `rope_parameters` says.

    Transformers 5 reads them too, and puts `rope_scaling` in the place of `rope_parameters`: both say the same.

    Args:
        config: the content of a `config.json`.
    """
    settings = config.get("rope_parameters")
    if not isinstance(settings, dict) or "rope_theta" not in settings:
        return {}
    scaling = {key: value for key, value in settings.items() if key not in ("rope_theta", "partial_rotary_factor")}
    older: dict[str, Any] = {"rope_theta": settings["rope_theta"]}
    if "partial_rotary_factor" in settings:
        older["partial_rotary_factor"] = settings["partial_rotary_factor"]
    if str(config.get("model_type")).endswith("gpt_neox"):  # which has names of its own for the two
        older["rotary_emb_base"], older["rotary_pct"] = older["rope_theta"], older.get("partial_rotary_factor", 1.0)
    kind = scaling.get("rope_type", "default")
    if kind == "default":
        return older
    original = scaling.get("original_max_position_embeddings")
    if original:
        stretched = config["max_position_embeddings"] / original
        if scaling.get("factor") is None:
            scaling["factor"] = stretched
        if kind == "longrope":
            # Transformers 4 has this one at the top level, and takes the quotient for the factor, whatever that says.
            older["original_max_position_embeddings"] = original
            if scaling["factor"] != stretched and scaling.get("attention_factor") is None:
                scaling["attention_factor"] = _longrope_attention_factor(scaling["factor"], original)
    older["rope_scaling"] = scaling
    return older


def _longrope_attention_factor(factor: float, original: int) -> float:
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
