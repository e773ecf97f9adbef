"""Rotary positions: what of a config's scaling llama.cpp computes the same way."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from secateur.errors import ModelError
from secateur.models.adapters import adapter_for

BETA_FAST, BETA_SLOW = 32.0, 1.0
WITH_FACTORS = ("llama", "mistral")


@dataclass(frozen=True)
class Rope:
    """Rotary positions as llama.cpp takes them.

    Attributes:
        base: the base of the frequencies, theta.
        scaling: `linear`, `yarn` or none.
        factor: positions are divided by this.
        original_length: positions before they were stretched (yarn).
        factors: what each frequency is divided by, (head_dim / 2,): Llama 3's scaling, as a tensor of the file.
    """

    base: float
    scaling: str | None = None
    factor: float = 1.0
    original_length: int = 0
    factors: Tensor | None = None


def rope_of(config: PreTrainedConfig) -> Rope:
    """Read a config's rotary positions.

    Raises:
        ModelError: llama.cpp computes them otherwise, or not at all.
    """
    settings: dict[str, Any] = dict(config.rope_parameters)
    kind, base = settings.get("rope_type", "default"), float(settings["rope_theta"])
    if settings.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError("llama.cpp rotates whole heads in this family, and this model a part; it cannot be exported")
    if kind == "default":
        return Rope(base)
    if kind == "linear":
        return Rope(base, kind, float(settings["factor"]))
    if kind == "yarn":
        return _yarn(base, settings, config.max_position_embeddings)
    family = adapter_for(config.model_type).model_type
    if kind == "llama3" and family in WITH_FACTORS:
        return Rope(base, factors=_factors(config, base))
    raise ModelError(
        f"llama.cpp's graph of {family} has no rotary positions of the type '{kind}'; known are default, linear, yarn, "
        "and llama3 in llama and mistral"
    )


def _yarn(base: float, settings: dict[str, Any], longest: int) -> Rope:
    """YaRN (Peng and others, 2023). llama.cpp's attention factor is always 1 + 0.1 · ln(factor)."""
    factor = float(settings["factor"])
    usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    stated = settings.get("attention_factor")
    if (stated is not None and not math.isclose(stated, usual, rel_tol=1e-4)) or settings.get("mscale_all_dim"):
        raise ModelError(
            "llama.cpp has yarn with an attention factor of 1 + 0.1 ln(factor) only; it cannot be exported"
        )
    if settings.get("truncate", True) is False:
        raise ModelError("llama.cpp has yarn with truncated bounds only, and this model has truncate: false")
    if (settings.get("beta_fast") or BETA_FAST, settings.get("beta_slow") or BETA_SLOW) != (BETA_FAST, BETA_SLOW):
        raise ModelError(
            f"llama.cpp has yarn with beta_fast {BETA_FAST:g} and beta_slow {BETA_SLOW:g} only; it cannot be exported"
        )
    original = int(settings.get("original_max_position_embeddings") or longest)
    return Rope(base, "yarn", factor, original)


def _factors(config: PreTrainedConfig, base: float) -> Tensor:
    """Frequencies without scaling over those with it."""
    scaled, attention_factor = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    assert attention_factor == 1.0
    width = 2 * len(scaled)
    plain = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    return plain / scaled.float()
