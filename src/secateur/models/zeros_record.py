"""What secateur remembers of the zeros it has made: `sparsity.json` beside the weights, the same on a loaded model."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.files.json_text import parse_json
from secateur.models.adapters import adapter_of

logger = logging.getLogger(__name__)

RECORD = "sparsity.json"
JUDGED = "whether the model is sparse is judged by its weights; say --zeros keep to keep all its zeros"
Count = Annotated[int, Field(strict=True, ge=0)]


class RecordedMatrix(BaseModel):
    """A matrix with zeros that were made: `name` is q_proj, down_proj and so on."""

    model_config = ConfigDict(extra="allow")

    layer: Count
    name: str
    shape: Annotated[list[Count], Field(min_length=2, max_length=2)]
    zeros: Count
    sparsity: float = 0.0
    pattern: str | None = None

    @property
    def key(self) -> str:
        """`3.down_proj`."""
        return f"{self.layer}.{self.name}"


class ZerosRecord(BaseModel):
    """The content of `sparsity.json`, of which only the matrices are looked at here; the rest is kept."""

    model_config = ConfigDict(extra="allow")

    matrices: list[RecordedMatrix]


def projections_of(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """All projections by layer and name, `3.down_proj`, but for those that are held elsewhere by Accelerate."""
    return {name: linear for name, linear in _all_projections(model).items() if not linear.weight.is_meta}


def zeros_in(weight: Tensor) -> int:
    """How many of a matrix's weights are zero."""
    return weight.numel() - int(weight.count_nonzero())


def load_zeros(model: PreTrainedModel, directory: Path) -> None:
    """Note on a model what the `sparsity.json` beside its weights says. A damaged one is said and not used."""
    file = directory / RECORD
    if not file.is_file():
        return
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
        _note(model, ZerosRecord.model_validate(content))
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be used (%s): %s", file, _reason(error), JUDGED)


def remember_zeros(model: PreTrainedModel, content: Mapping[str, Any]) -> None:
    """Note on a model which matrices have zeros that were made, beside those of its other matrices noted before.

    Args:
        model: as it is now.
        content: of `sparsity.json`, or its `matrices` alone.
    """
    record, before = ZerosRecord.model_validate(content), recorded_zeros(model)
    new = {matrix.key for matrix in record.matrices}
    others = [matrix for matrix in before.matrices if matrix.key not in new] if before else []
    if before is not None:
        record = ZerosRecord.model_construct(**{**dict(before), **dict(record)})
    _note(model, _counted(record, [*others, *record.matrices], model))


def renew_zeros(model: PreTrainedModel) -> None:
    """Count anew what is noted, after a cut of whole rows and columns that has left all other weights as they were."""
    record = recorded_zeros(model)
    if record is not None:
        _note(model, _counted(record, record.matrices, model))


def forget_zeros(model: PreTrainedModel) -> None:
    """Drop what is noted: what is saved then has no `sparsity.json`."""
    _note(model, None)


def believed_zeros(model: PreTrainedModel, zeros: Mapping[str, int]) -> frozenset[str]:
    """The matrices that are sparse by what is noted on the model, where the weights bear that out.

    A note that they do not bear out is of another model, or the weights have changed since: it is said and dropped.

    Args:
        model: of a supported family.
        zeros: how many weights of each projection are zero, by layer and name, of those that are in memory.
    """
    record = recorded_zeros(model)
    if record is None:
        return frozenset()
    shapes = {name: list(linear.weight.shape) for name, linear in _all_projections(model).items()}
    for matrix in record.matrices:
        wrong = _contradiction(matrix, shapes.get(matrix.key), zeros.get(matrix.key))
        if wrong is not None:
            logger.warning("%s is of other weights than the model's (%s): %s", RECORD, wrong, JUDGED)
            forget_zeros(model)
            return frozenset()
    return frozenset(matrix.key for matrix in record.matrices if matrix.key in zeros and matrix.zeros)


def zeros_file(model: PreTrainedModel) -> dict[str, Any]:
    """`sparsity.json` and its content, for the directory that a model is saved in; empty where nothing is noted."""
    if recorded_zeros(model) is None:
        return {}
    zeros = {name: zeros_in(linear.weight) for name, linear in projections_of(model).items()}
    return {RECORD: cast(ZerosRecord, recorded_zeros(model)).model_dump()} if believed_zeros(model, zeros) else {}


def recorded_zeros(model: PreTrainedModel) -> ZerosRecord | None:
    """What is noted on a model, believed or not."""
    return getattr(model, "secateur_zeros", None)


def _note(model: PreTrainedModel, record: ZerosRecord | None) -> None:
    cast(Any, model).secateur_zeros = record


def _counted(record: ZerosRecord, matrices: Iterable[RecordedMatrix], model: PreTrainedModel) -> ZerosRecord:
    """The record over these matrices with shapes and zeros as they are now, without those that are gone."""
    linears, now, weights = projections_of(model), [], 0
    for matrix in sorted(matrices, key=lambda matrix: matrix.layer):
        if matrix.key not in linears:
            continue
        weight = linears[matrix.key].weight
        zeros = zeros_in(weight)
        if zeros:
            same = list(weight.shape) == matrix.shape
            now.append(
                matrix.model_copy(
                    update={
                        "shape": list(weight.shape),
                        "zeros": zeros,
                        "sparsity": zeros / weight.numel(),
                        "pattern": matrix.pattern if same else None,
                    }
                )
            )
            weights += weight.numel()
    zeros = sum(matrix.zeros for matrix in now)
    totals = {"matrices": now, "zeros": zeros, "reached": zeros / max(weights, 1)}
    return ZerosRecord.model_construct(**{**dict(record), **totals})


def _all_projections(model: PreTrainedModel) -> dict[str, nn.Linear]:
    adapter = adapter_of(model)
    return {
        f"{index}.{name}": linear
        for index, layer in enumerate(adapter.layers(model))
        for name, linear in adapter.projections(layer).items()
    }


def _contradiction(matrix: RecordedMatrix, shape: list[int] | None, zeros: int | None) -> str | None:
    """What the weights say against a record. `zeros` is None for a matrix that is held elsewhere."""
    if shape is None:
        return f"the model has no {matrix.name} in layer {matrix.layer}"
    if shape != matrix.shape:
        return f"{matrix.key} is {tuple(shape)}, there {tuple(matrix.shape)}"
    # Rounding to a smaller number format makes more zeros, never fewer.
    if zeros is not None and zeros < matrix.zeros:
        return f"{zeros:,} zeros in {matrix.key}, there {matrix.zeros:,}"
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc'])) or 'content'}: {problem['msg']}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
