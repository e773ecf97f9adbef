"""Export to what other engines read: GGUF, the file that llama.cpp runs, and `nemotron-nas`."""

from secateur.exporting.config import ExportConfig
from secateur.exporting.engines import opens_in
from secateur.exporting.export import export, require_exportable, require_quantiser
from secateur.exporting.result import ExportResult

__all__ = ["ExportConfig", "ExportResult", "export", "opens_in", "require_exportable", "require_quantiser"]
