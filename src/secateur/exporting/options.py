"""Options by name, for type checkers: `make options` writes this file from the configs."""

from __future__ import annotations

from typing import TypedDict

from secateur.exporting.config import Format, NumberFormat


class ExportOptions(TypedDict, total=False):
    """Options of `secateur.export`, the fields of `ExportConfig`."""

    format: Format
    """gguf: a file for llama.cpp. nemotron-nas: a directory for vLLM, SGLang and mlx-lm, of a model of which MLP
    channels alone are cut, to multiples of 256. Default: 'gguf'.
    """

    dtype: NumberFormat | None
    """Number format of the matrices; unless given f16 in a GGUF file, and in a directory the model's own. q8_0: 8 bits;
    rows that its blocks of 32 do not divide stay f16.
    """
