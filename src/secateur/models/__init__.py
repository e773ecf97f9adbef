"""Models: loading, saving, the adapter of each family, uneven layers, masks, checks, fingerprints."""

from secateur.models import families
from secateur.models.adapters import Adapter, adapter_of, register, supported_model_types
from secateur.models.fingerprint import weights_fingerprint
from secateur.models.halves import Half, HalfNames
from secateur.models.loading import find_model, load, model_directory, model_label
from secateur.models.lora import attach_adapter
from secateur.models.options import LoadOptions, configured
from secateur.models.saving import save
from secateur.models.tokenizers import load_tokenizer
from secateur.models.widths import (
    LayerWidths,
    count_parameters,
    declare_widths,
    declared_widths,
    is_uneven,
    layer_widths,
)

__all__ = [
    "Adapter",
    "Half",
    "HalfNames",
    "LayerWidths",
    "LoadOptions",
    "adapter_of",
    "attach_adapter",
    "configured",
    "count_parameters",
    "declare_widths",
    "declared_widths",
    "families",
    "find_model",
    "is_uneven",
    "layer_widths",
    "load",
    "load_tokenizer",
    "model_directory",
    "model_label",
    "register",
    "save",
    "supported_model_types",
    "weights_fingerprint",
]
