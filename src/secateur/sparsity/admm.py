"""ADMM: the mask grows while the weights left are solved against the Hessian.

Boža 2024, "Fast and Effective Weight Update for Pruned Large Language Models"; the last steps, conjugate gradients on
the weights left, are of ALPS, Meng et al. 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for
Large Language Models".
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from secateur.calibration.moments import factored
from secateur.calibration.polish import polish
from secateur.sparsity.quota import Quota

WEIGHTS_AT_ONCE = 1 << 22  # rows of so many weights stay in memory that the allocator has at hand


@dataclass(frozen=True)
class ScaledHessian:
    """H = XᵀX + Λ with the inputs scaled to norm 1, for all matrices that have these inputs.

    Attributes:
        matrix: S H S with S = diag(H)^(-1/2), (in_features, in_features), float32.
        norms: √diag(H), (in_features,).
    """

    matrix: Tensor
    norms: Tensor

    @classmethod
    def of(cls, moments: Tensor, ridge: Tensor) -> "ScaledHessian":
        """From XᵀX, (in_features, in_features) float32, which becomes the matrix, and Λ's diagonal, (in_features,)."""
        norms = (moments.diagonal().double() + ridge).sqrt().float()
        moments.div_(norms).div_(norms[:, None]).diagonal().fill_(1)
        return cls(moments, norms)

    def damped(self, ridge: float, wanted: float) -> Tensor:
        """H as it was before its inputs were scaled, with another ridge.

        Args:
            ridge: of this one, as a share of each input's second moment.
            wanted: the same of the result.
        """
        hessian = self.matrix * self.norms * self.norms[:, None]
        hessian.diagonal().mul_((1 + wanted) / (1 + ridge))
        return hessian

    @cached_property
    def inverse(self) -> Tensor:
        """(S H S + I)⁻¹, (in_features, in_features)."""
        damped = self.matrix.double()
        damped.diagonal().add_(1)
        lower, _ = factored(damped, check_errors=True)
        return torch.cholesky_inverse(lower, out=lower).float()


def admm(
    weight: Tensor, hessian: ScaledHessian, cross: Tensor, quota: Quota, iterations: int = 15, polishing: int = 12
) -> Tensor:
    """Prune a matrix so that ‖X Vᵀ − T‖² is small over weights V with the zeros of the quota.

    Inputs are scaled to unit norm, so that |V| is Wanda's score. V and its sparse copy Z are drawn together by the
    multipliers U: Z = mask · (V + U), U += V − Z, V = (H + ρI)⁻¹ (XᵀT + ρ(Z − U)). Z and U share no entry: what is
    kept of V + U is Z, and the rest is U.

    Args:
        weight: where to begin, (out_features, in_features).
        hessian: H, of the inputs, (in_features, in_features).
        cross: XᵀT, (in_features, out_features); H Wᵀ where the outputs before the cut are the target.
        quota: how many zeros.
        iterations: of ADMM; the zeros grow, by a cubic, to the quota's number in the last.
        polishing: steps of conjugate gradients with the mask held.

    Returns:
        The weights left, with zeros, (out_features, in_features) float32. What was zero before stays zero.
    """
    goal = (cross / hessian.norms[:, None]).T.float()  # (out, in)
    moved = weight.float() * hessian.norms  # V + U, (out, in)
    allowed, scores = weight != 0, torch.empty_like(moved)
    rows = max(1, WEIGHTS_AT_ONCE // moved.shape[1])
    for iteration in range(iterations):
        done = 1 - (1 - (iteration + 1) / iterations) ** 3
        keep = quota.share(done).keep(torch.abs(moved, out=scores), allowed)
        if iteration + 1 == iterations:
            break
        for some, kept, aim in zip(moved.split(rows), keep.split(rows), goal.split(rows), strict=True):
            dual = some.masked_fill(kept, 0)  # U
            right = some.sub_(dual, alpha=2).add_(aim)  # XᵀT + Z − U
            some.copy_(dual.addmm_(right, hessian.inverse))
    del scores
    moved.mul_(keep)
    for some, kept, aim in zip(moved.split(rows), keep.split(rows), goal.split(rows), strict=True):
        polish(some, hessian.matrix, aim, kept, polishing)
    return moved.div_(hessian.norms)
