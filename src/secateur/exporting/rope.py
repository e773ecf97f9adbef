"""Rotary positions: what of a config's scaling llama.cpp computes the same way."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from secateur.errors import ModelError
from secateur.exporting.graphs import FAMILIES
from secateur.models.adapters import adapter_for
from secateur.models.modeling_secateur import of_one_width
from secateur.models.widths import widths_in

BETA_FAST, BETA_SLOW = 32.0, 1.0
STILL = 1e30  # A frequency divided by this does not turn anything.


@dataclass(frozen=True)
class Rope:
    """Rotary positions as llama.cpp takes them.

    Attributes:
        base: the base of the frequencies, theta.
        rotated: of each head's values so many, from the first, are rotated.
        scaling: `linear`, `yarn`, `longrope` or none.
        factor: positions are divided by this.
        original_length: positions before they were stretched (yarn, longrope).
        factors: what each frequency is divided by, (rotated / 2,), as a tensor of the file: Llama 3's scaling, or that
            of longrope up to the original length.
        long_factors: the same beyond the original length (longrope).
        attention_factor: of cosines and sines, beside what the scaling brings with it.
        log_multiplier: yarn's factor of cosines and sines is divided by 1 + 0.1 · this · ln(factor).
        window_base: the base in layers that attend to the last tokens only, where they have their own.
    """

    base: float
    rotated: int
    scaling: str | None = None
    factor: float = 1.0
    original_length: int = 0
    factors: Tensor | None = None
    long_factors: Tensor | None = None
    attention_factor: float = 1.0
    log_multiplier: float = 0.0
    window_base: float | None = None

    def of_whole_heads(self, head_dim: int) -> "Rope":
        """The same for a graph that rotates whole heads, up to the original length of longrope."""
        still = head_dim // 2 - self.rotated // 2
        if not still and self.scaling != "longrope":
            return self
        factors = torch.ones(self.rotated // 2) if self.factors is None else self.factors
        return replace(
            self,
            base=self.base ** (head_dim / self.rotated),
            rotated=head_dim,
            scaling=None,
            factors=torch.cat([factors, torch.full((still,), STILL)]),
            long_factors=None,
        )


def rope_of(config: PreTrainedConfig) -> Rope:
    """Read a config's rotary positions.

    Raises:
        ModelError: llama.cpp computes them otherwise, or not at all.
    """
    family = adapter_for(config.model_type).model_type
    everywhere: dict[str, Any] = dict(config.rope_parameters)
    windows: dict[str, Any] | None = None
    if "full_attention" in everywhere or "sliding_attention" in everywhere:
        # A config without layers of a kind may have nothing to say of it.
        windows = everywhere.get("sliding_attention") or everywhere["full_attention"]
        everywhere = everywhere.get("full_attention") or windows
    head_dim = _head_dim(config)
    rotated = int(head_dim * everywhere.get("partial_rotary_factor", 1.0))
    if rotated != head_dim and not FAMILIES[family].even.part_of_head:
        raise ModelError("llama.cpp rotates whole heads in this family, and this model a part; it cannot be exported")
    kind, base = everywhere.get("rope_type", "default"), float(everywhere["rope_theta"])
    known = FAMILIES[family].even.rope
    if kind not in known:
        raise ModelError(
            f"llama.cpp's graph of {family} has no rotary positions of the type '{kind}'; known are "
            f"{', '.join(sorted(known))}"
        )
    rope = Rope(base, rotated)
    if kind == "linear":
        rope = replace(rope, scaling=kind, factor=float(everywhere["factor"]))
    elif kind == "yarn":
        rope = _yarn(rope, everywhere, config.max_position_embeddings, family)
    elif kind == "llama3":
        rope = replace(rope, factors=_factors(config, rope.base))
    elif kind == "longrope":
        rope = _longrope(config, rope, everywhere)
    return rope if windows is None else _with_windows(rope, windows, family)


def _head_dim(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // widths_in(config)[0].num_attention_heads)


def _with_windows(rope: Rope, windows: Mapping[str, Any], family: str) -> Rope:
    base = float(windows["rope_theta"])
    own_base = family == "gemma3_text"
    if windows.get("rope_type", "default") != "default" or (base != rope.base and not own_base):
        raise ModelError(
            f"llama.cpp's graph of {family} rotates in layers with a sliding window "
            f"{'without scaling' if own_base else 'as in the others, without scaling'}, and this model otherwise; it "
            "cannot be exported"
        )
    return replace(rope, window_base=base if own_base else None)


def _yarn(rope: Rope, settings: Mapping[str, Any], longest: int, family: str) -> Rope:
    """YaRN (Peng and others, 2023). llama.cpp's attention factor is always 1 + 0.1 · ln(factor)."""
    factor = float(settings["factor"])
    usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    stated, divisor = settings.get("attention_factor"), settings.get("mscale_all_dim")
    if family == "ministral3" and stated is None and divisor and settings.get("mscale") == 1:
        rope = replace(rope, log_multiplier=float(divisor))
    elif (stated is not None and not math.isclose(stated, usual, rel_tol=1e-4)) or divisor:
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
    return replace(rope, scaling="yarn", factor=factor, original_length=original)


def _longrope(config: PreTrainedConfig, rope: Rope, settings: Mapping[str, Any]) -> Rope:
    """LongRoPE (Ding and others, 2024): a factor for each frequency, others beyond the original length."""
    original = int(settings["original_max_position_embeddings"])
    _, attention_factor = ROPE_INIT_FUNCTIONS["longrope"](of_one_width(config), torch.device("cpu"))
    return replace(
        rope,
        scaling="longrope",
        original_length=original,
        factors=torch.tensor(settings["short_factor"]),
        long_factors=torch.tensor(settings["long_factor"]),
        attention_factor=float(attention_factor),
    )


def _factors(config: PreTrainedConfig, base: float) -> Tensor:
    """Frequencies without Llama 3's scaling over those with it."""
    scaled, attention_factor = ROPE_INIT_FUNCTIONS["llama3"](of_one_width(config), torch.device("cpu"))
    assert attention_factor == 1.0
    width = 2 * len(scaled)
    plain = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    return plain / scaled.float()
