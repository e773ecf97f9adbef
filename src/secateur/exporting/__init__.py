"""Export to GGUF: the file that llama.cpp runs."""

from secateur.exporting.config import ExportConfig
from secateur.exporting.export import ExportResult, export, require_exportable

__all__ = ["ExportConfig", "ExportResult", "export", "require_exportable"]
