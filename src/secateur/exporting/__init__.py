"""Export to what other engines read: GGUF, the file that llama.cpp runs, and `nemotron-nas`."""

from secateur.exporting.config import ExportConfig
from secateur.exporting.engines import opening_in, opening_of
from secateur.exporting.export import export, require_exportable, require_quantiser
from secateur.exporting.result import ExportResult

__all__ = [
    "ExportConfig",
    "ExportResult",
    "export",
    "opening_in",
    "opening_of",
    "require_exportable",
    "require_quantiser",
]
