"""Adding a LoRA adapter to the weights of its model."""

from pathlib import Path
from typing import cast

from transformers import PreTrainedModel

from secateur.models import attach_adapter


def merge_adapter(model: PreTrainedModel, adapter: str | Path) -> PreTrainedModel:
    """Add the adapter's product B·A, scaled, to the weights of the projections it stands beside.

    Args:
        model: the model the adapter was trained on; changed in place.
        adapter: a directory with `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        The model, without adapter layers.

    Raises:
        ModelError: the directory holds no adapter, a damaged or pickled one, or one of another model, which is then
            left as it was.
    """
    return cast(PreTrainedModel, attach_adapter(model, adapter).merge_and_unload())
