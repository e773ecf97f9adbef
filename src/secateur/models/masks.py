"""Where a sparse model's zeros are, whether they are to be kept, and whether they are all still there.

Zeros alone do not make a model sparse: quantised weights hit zero too, up to a fifth of a matrix in a GGUF file of 4
bits and a third in one of 3. A matrix is sparse where secateur's record of its zeros says so (`sparsity.json`), where
at least a third of it is zero (45 %, where its weights are those of a quantised format of 4 bits or less, ternary ones
included), or where its zeros are N of every M.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.models.adapters import adapter_of
from secateur.models.streamed import release
from secateur.models.zeros_record import RECORD, believed_zeros, projections_of, remember_zeros, zeros_in
from secateur.wording import worded

logger = logging.getLogger(__name__)

SPARSE_FROM = 1 / 3
MENTIONED_FROM = 0.01
QUANTISED_SPARSE_FROM = 0.45  # cuts are seldom less than half, and a matrix may get a bit less than others
# Neighbours that share a scale in GGUF's formats of 4 bits or less, and the most absolute values beside 0 they take.
BLOCK, MAGNITUDES = 32, 8
GROUPS = (4, 8, 16)  # the M of N:M that is looked for below that share

Zeros = Literal["auto", "keep", "fill"]
Masks = Mapping[str, Tensor]

# For the options of commands, which add what they do about it.
ZEROS_HELP = "Whether zeros are to stay. auto: in a model whose sparsity.json says so, or with N:M or a third zeros"


def zero_masks(model: PreTrainedModel) -> dict[str, Tensor]:
    """For each sparse projection, which weights are not zero.

    Args:
        model: of a supported family.

    Returns:
        Booleans of the weight's shape by the projection's name, `3.down_proj`; empty for a dense model.
    """
    return _masks(_judged(model).sparse)


def zeros_to_keep(model: PreTrainedModel, zeros: Zeros = "auto") -> dict[str, Tensor]:
    """What `zero_masks` gives, or what the user has said instead; the decision and its reason are logged.

    Args:
        model: of a supported family.
        zeros: `auto` as `zero_masks`; `keep` takes every matrix with a zero for sparse, and notes that on the model;
            `fill` takes none.

    Returns:
        As `zero_masks`.
    """
    if zeros == "fill":
        logger.info(worded("The model's zeros may be filled, as --zeros says"))
        return {}
    if zeros == "auto":
        judgement = _judged(model)
        logger.log(logging.INFO if judgement.is_worth_a_word else logging.DEBUG, "%s", judgement.sentence)
        return _masks(judgement.sparse)
    masks = masks_of_all_zeros(model)
    logger.info(worded("The zeros in %d of the model's matrices are kept, as --zeros says"), len(masks))
    if masks:
        remember_zeros(model, {"matrices": [_described(name, keep) for name, keep in masks.items()]})
    return masks


def masks_of_all_zeros(model: PreTrainedModel) -> dict[str, Tensor]:
    """As `zero_masks`, of every projection with a zero in it."""
    return _masks({name: linear for name, linear in _unquantised(model).items() if zeros_in(linear.weight)})


def describe_zeros(model: PreTrainedModel) -> str:
    """In a sentence whether a model counts as sparse, and why."""
    return _judged(model).sentence


def masked_projections(model: PreTrainedModel, masks: Masks) -> dict[str, nn.Linear]:
    """The projections that masks are of, by the same names."""
    adapter = adapter_of(model)
    layers = adapter.layers(model)
    return {name: adapter.projections(layers[int(index)])[part] for name in masks for index, part in [name.split(".")]}


@torch.no_grad()
def lost_zeros(model: PreTrainedModel, masks: Masks) -> int:
    """How many weights are no longer zero that were where the masks were made."""
    linears = masked_projections(model, masks)
    return sum(
        int((linears[name].weight[~keep.to(linears[name].weight.device)] != 0).sum()) for name, keep in masks.items()
    )


@torch.no_grad()
def zero_again(model: PreTrainedModel, masks: Masks) -> None:
    """Set to zero what was when the masks were made."""
    for name, linear in masked_projections(model, masks).items():
        linear.weight.mul_(masks[name])


def share_of_zeros(model: PreTrainedModel) -> float:
    """Share of all projections' weights that are zero in sparse matrices; 0 for a dense model."""
    judgement = _judged(model)
    return judgement.share(judgement.sparse, judgement.linears)


def sparsity_of(masks: Masks) -> float:
    """Share of zeros in the matrices that have them."""
    return 1 - sum(int(keep.sum()) for keep in masks.values()) / sum(keep.numel() for keep in masks.values())


def _unquantised(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The projections that may have a mask: rounding to 8 bits makes zeros that nobody chose."""
    return {name: linear for name, linear in projections_of(model).items() if linear.weight.is_floating_point()}


@torch.no_grad()
def _masks(linears: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    return {name: linear.weight != 0 for name, linear in linears.items()}


@dataclass(frozen=True)
class _Judgement:
    """Which of a model's projections are sparse.

    Attributes:
        linears: all projections by layer and name, but for those in 8 bits.
        zeros: how many weights of each are zero.
        noted: those that the record of zeros names.
        sparse: those whose zeros count.
    """

    linears: Mapping[str, nn.Linear]
    zeros: Mapping[str, int]
    noted: frozenset[str]
    sparse: Mapping[str, nn.Linear]

    def share(self, zeros_of: Iterable[str], weights_of: Iterable[str]) -> float:
        """The zeros in some projections as a share of the weights in some."""
        weights = sum(self.linears[name].weight.numel() for name in weights_of)
        return sum(self.zeros[name] for name in zeros_of) / max(weights, 1)

    @property
    def is_worth_a_word(self) -> bool:
        """Whether there is something to decide: rounding to bfloat16 makes a few zeros in every model."""
        return bool(self.sparse) or self.share(self.linears, self.linears) >= MENTIONED_FROM

    @property
    def sentence(self) -> str:
        if not self.linears:
            return "The model counts as dense: the zeros of weights in 8 bits are not looked at"
        if not self.sparse:
            share = self.share(self.linears, self.linears)
            found = f"{share:.2%} of its projections' weights are zero, and without a pattern"
            return f"The model counts as dense: {found if share else 'no zeros in its projections'}"
        why = f"its {RECORD} says so" if self.noted else "so many are zero in a matrix, or N of every M"
        share = self.share(self.sparse, self.sparse)
        number = f"{len(self.sparse)} of its {len(self.linears)} matrices"
        return f"The model counts as sparse, {share:.1%} zeros in {number}: {why}"


@torch.no_grad()
def _judged(model: PreTrainedModel) -> _Judgement:
    linears = _unquantised(model)
    zeros = {}
    for name, linear in linears.items():
        zeros[name] = zeros_in(linear.weight)
        release(model, linear)
    noted = believed_zeros(model, zeros)
    sparse = {
        name: linear for name, linear in linears.items() if name in noted or _has_pattern(linear.weight, zeros[name])
    }
    return _Judgement(linears, zeros, noted, sparse)


def _has_pattern(weight: Tensor, zeros: int) -> bool:
    """Whether a matrix, (out_features, in_features), has so many zeros, or in such order, that they were made.

    Below a third, N:M is taken for one where its zeros are at least half of all: where chance has put a zero into each
    of a few groups, there are many more in others.
    """
    if not zeros:
        return False
    share = zeros / weight.numel()
    if share >= SPARSE_FROM:
        return share >= QUANTISED_SPARSE_FROM or not _is_quantised(weight)
    for group in GROUPS:
        if 1 / group <= share and weight.shape[1] % group == 0:
            least = int((weight == 0).unflatten(1, (-1, group)).sum(-1).min())
            if least and share <= 2 * least / group:
                return True
    return False


def _is_quantised(weight: Tensor) -> bool:
    """Whether a matrix's weights take so few values in each block as only quantised ones do."""
    blocks = weight[:, : weight.shape[1] // BLOCK * BLOCK].abs().reshape(-1, BLOCK)
    telling = blocks[(blocks != 0).sum(1) > MAGNITUDES + MAGNITUDES // 2]
    ordered = telling.sort(dim=1).values
    values = (ordered[:, 1:] != ordered[:, :-1]).sum(1) + (ordered[:, 0] != 0)  # beside 0, where there is one
    return len(telling) > 0 and float((values <= MAGNITUDES).float().mean()) > 0.99


def _described(name: str, keep: Tensor) -> dict[str, object]:
    layer, projection = name.split(".")
    zeros = keep.numel() - int(keep.sum())
    return {
        "layer": int(layer),
        "name": projection,
        "shape": list(keep.shape),
        "zeros": zeros,
        "sparsity": zeros / keep.numel(),
    }
