"""Which matrices lose weights, and how many each."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.errors import InputError
from secateur.models.adapters import adapter_of
from secateur.sparsity.config import SparsifyConfig
from secateur.sparsity.quota import Pattern, Quota

HEAD = "lm_head"


@dataclass(frozen=True)
class Matrix:
    """A projection that loses weights: `name` is q_proj, down_proj and so on."""

    layer: int
    name: str
    linear: nn.Linear

    @property
    def shape(self) -> tuple[int, int]:
        return self.linear.out_features, self.linear.in_features

    @property
    def parameters(self) -> int:
        return self.linear.weight.numel()


def cut_matrices(model: PreTrainedModel, config: SparsifyConfig) -> list[Matrix]:
    """The projections of the layers that the configuration names, but for those it skips.

    Raises:
        InputError: the range is outside the model, a skipped name is unknown, or nothing is left.
    """
    adapter = adapter_of(model)
    layers = adapter.layers(model)
    everywhere = [
        Matrix(index, name, linear)
        for index, layer in enumerate(layers)
        for name, linear in adapter.projections(layer).items()
    ]
    known = {HEAD} | {name for matrix in everywhere for name in _names(matrix)}
    unknown = [name for name in config.skip if name not in known]
    if unknown:
        short = ", ".join(dict.fromkeys(matrix.name for matrix in everywhere))
        raise InputError(f"--skip names '{unknown[0]}', which is no projection; use {short}, or 3.down_proj for one")
    chosen = config.layer_range(len(layers))
    cut = [matrix for matrix in everywhere if matrix.layer in chosen and not _names(matrix) & set(config.skip)]
    if not cut:
        raise InputError("no projection is left to cut: --skip names all of them")
    return cut


def _names(matrix: Matrix) -> set[str]:
    return {matrix.name, f"{matrix.layer}.{matrix.name}"}


def quotas(
    matrices: Sequence[Matrix],
    config: SparsifyConfig,
    shares: Sequence[float] | None = None,
    row_weights: Sequence[Tensor] | None = None,
) -> list[Quota]:
    """How many weights each matrix loses.

    Args:
        matrices: those that are cut.
        config: the pattern, or the share of all their weights.
        shares: each matrix's own share, whose mean by size is the share of all; the same for all unless given.
        row_weights: for each matrix what its rows' scores count for, (rows, 1); unless given all rows lose alike.

    Returns:
        Quotas whose zeros add up to exactly the share of all weights, rounded.

    Raises:
        InputError: the pattern does not divide a width.
    """
    if config.pattern is not None:
        pattern = Pattern.parse(config.pattern)
        return [
            Quota.of_pattern(*matrix.shape, pattern, f"{matrix.name} in layer {matrix.layer}") for matrix in matrices
        ]
    wanted = shares or [config.share] * len(matrices)
    found, exact, given = [], 0.0, 0
    weights: Sequence[Tensor | None] = row_weights or [None] * len(matrices)
    for matrix, share, rows in zip(matrices, wanted, weights, strict=True):
        # What rounding one matrix leaves over goes to the next.
        exact += share * matrix.parameters
        zeros = round(exact) - given
        given += zeros
        found.append(Quota(*matrix.shape, zeros, per_row=rows is None, row_weights=rows))
    return found
