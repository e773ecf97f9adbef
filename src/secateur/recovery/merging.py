"""Adding an adapter to the weights of its model."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from secateur.errors import InputError, ModelError
from secateur.handover.memory import note_done
from secateur.models import attach_adapter
from secateur.models.checks import not_finite, require_in_memory
from secateur.models.lora import merged
from secateur.models.masks import Zeros, sparsity_of, zero_again, zeros_to_keep
from secateur.models.rounded import forget_rounding, refuse_rounded
from secateur.models.zeros_record import forget_zeros
from secateur.recovery.config import said_zeros


def merge_adapter(
    model: PreTrainedModel,
    adapter: str | Path,
    *,
    zeros: Zeros = "auto",
    keep_zeros: bool = False,
    allow_dense: bool = False,
    dequantize: bool = False,
) -> PreTrainedModel:
    """Make what an adapter adds part of the weights: B·A, scaled, for LoRA.

    Args:
        model: the model the adapter was trained on; changed in place.
        adapter: a directory with `adapter_config.json` and `adapter_model.safetensors`.
        zeros: what becomes of zeros: `keep` adds it only to the weights that are not zero, `fill` to all; `auto` does
            that in a dense model and refuses a sparse one.
        keep_zeros: short for `zeros="keep"`.
        allow_dense: short for `zeros="fill"`.
        dequantize: let weights that were rounded to a few bits become ordinary ones.

    Returns:
        The model, without adapter layers. Embeddings that the adapter has made two are no longer tied.

    Raises:
        InputError: the model is sparse, and what is to become of its zeros is not said; or its weights are rounded to a
            few bits and not to be dequantised.
        ModelError: the directory holds no adapter, a damaged or pickled one, one of a kind that cannot be merged, or
            one of another model, which is then left as it was; or weights are outside of memory, or are NaN or
            infinite with it.
    """
    try:
        zeros = said_zeros(zeros, keep_zeros, allow_dense)
    except ValueError as error:
        raise InputError(str(error)) from error
    require_in_memory(model)
    require_ordinary(model, dequantize)
    masks = zeros_to_keep(model, zeros)
    if masks and zeros == "auto":
        raise InputError(
            f"the model's projections are {sparsity_of(masks):.0%} zeros, which a merged adapter would fill; keep the "
            "zeros with --zeros keep, or fill them with --zeros fill"
        )
    result = merged(attach_adapter(model, adapter, to_merge=True))
    forget_rounding(result)
    if masks:
        zero_again(result, masks)
    broken = not_finite(result)
    if broken is not None:
        raise ModelError(
            f"with the adapter {adapter} merged, {broken} holds NaN or infinite values; secateur diagnose says whether "
            "the model has them without it"
        )
    if zeros == "fill":
        forget_zeros(result)
    given: dict[str, Any] = {} if zeros == "auto" else {"zeros": zeros}
    note_done(result, "merge", {}, adapter=str(adapter), **given)
    return result


def require_ordinary(model: PreTrainedModel, dequantize: bool) -> None:
    """Raise `InputError` where a model's weights are rounded to a few bits and are not to become ordinary ones."""
    if not dequantize:
        refuse_rounded(
            model, "a merged adapter would take them off their grid; --dequantize makes ordinary ones of them"
        )
