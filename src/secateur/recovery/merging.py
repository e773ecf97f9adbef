"""Adding a LoRA adapter to the weights of its model."""

from pathlib import Path
from typing import cast

from transformers import PreTrainedModel

from secateur.errors import InputError
from secateur.models import attach_adapter
from secateur.models.masks import sparsity_of, zero_again, zero_masks


def merge_adapter(
    model: PreTrainedModel, adapter: str | Path, *, keep_zeros: bool = False, allow_dense: bool = False
) -> PreTrainedModel:
    """Add the adapter's product B·A, scaled, to the weights of the projections it stands beside.

    Args:
        model: the model the adapter was trained on; changed in place.
        adapter: a directory with `adapter_config.json` and `adapter_model.safetensors`.
        keep_zeros: in a model with zeros, add it only to the weights that are not zero.
        allow_dense: in a model with zeros, fill them.

    Returns:
        The model, without adapter layers.

    Raises:
        InputError: the model has zeros, and what is to become of them is not said.
        ModelError: the directory holds no adapter, a damaged or pickled one, or one of another model, which is then
            left as it was.
    """
    masks = zero_masks(model)
    if masks and not (keep_zeros or allow_dense):
        raise InputError(
            f"the model's projections are {sparsity_of(masks):.0%} zeros, which a merged adapter would fill; keep the "
            "zeros with --keep-zeros, or fill them with --allow-dense"
        )
    merged = cast(PreTrainedModel, attach_adapter(model, adapter).merge_and_unload())
    if keep_zeros:
        zero_again(merged, masks)
    return merged
