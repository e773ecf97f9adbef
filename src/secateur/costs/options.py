"""Options by name, for type checkers: `make options` writes this file from the configs."""

from __future__ import annotations

from typing import TypedDict

from secateur.costs.config import Engine


class MeasureWidthsOptions(TypedDict, total=False):
    """Options of `secateur.measure_widths`, the fields of `MeasureWidthsConfig`."""

    engine: Engine
    """What decodes. Default: 'transformers'."""

    context: int | None
    """Tokens before the one that is timed; 512 unless given, or the model's most where that is less."""

    again: bool
    """Measure even where this machine's times are kept. Default: False."""

    dtype: str | None
    """Number format. Of Transformers float32, bfloat16 or float16, unless given as secateur loads a model here; of
    llama.cpp one of secateur export, f16 unless given.
    """

    device: str
    """auto, cpu, cuda or cuda:N; of Transformers. Default: 'auto'."""
