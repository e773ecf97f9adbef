"""ADMM: the mask grows while the weights left are solved against the Hessian.

Boža 2024, "Fast and Effective Weight Update for Pruned Large Language Models"; the last steps, conjugate gradients on
the weights left, are of ALPS, Meng et al. 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for
Large Language Models".
"""

import torch
from torch import Tensor

from secateur.sparsity.quota import Quota


def admm(
    weight: Tensor,
    hessian: Tensor,
    cross: Tensor,
    quota: Quota,
    iterations: int = 20,
    growing: int = 15,
    polishing: int = 20,
) -> Tensor:
    """Prune a matrix so that ‖X Vᵀ − T‖² is small over weights V with the zeros of the quota.

    Inputs are scaled to unit norm, so that |V| is Wanda's score. V and its sparse copy Z are drawn together by the
    multipliers U: V = (H + ρI)⁻¹ (XᵀT + ρ(Z − U)), Z = mask · (V + U), U += V − Z.

    Args:
        weight: where to begin, (out_features, in_features).
        hessian: H = XᵀX + λI, (in_features, in_features).
        cross: XᵀT, (in_features, out_features); H Wᵀ where the outputs before the cut are the target.
        quota: how many zeros.
        iterations: of ADMM.
        growing: the first of them in which the zeros grow, by a cubic, to the quota's number.
        polishing: steps of conjugate gradients with the mask held.

    Returns:
        The weights left, with zeros, (out_features, in_features) float32. What was zero before stays zero.
    """
    norms = hessian.diagonal().sqrt()
    scaled = (hessian / norms / norms[:, None]).float()  # (in, in), diagonal 1
    goal = (cross / norms[:, None]).T.float()  # (out, in)
    identity = torch.eye(len(norms), device=norms.device, dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(scaled.double() + identity)).float()
    left = weight.float() * norms.float()  # V, (out, in)
    dual = torch.zeros_like(left)  # U
    allowed = weight != 0
    for iteration in range(iterations):
        if iteration < growing:
            done = 1 - (1 - (iteration + 1) / growing) ** 3
            keep = quota.share(done).keep((left + dual).abs(), allowed)
        sparse = (left + dual) * keep  # Z
        dual = dual + left - sparse
        left = (goal + sparse - dual) @ inverse
    sparse = (left + dual) * keep
    return polished(sparse, scaled, goal, keep, polishing) / norms.float()


def polished(weight: Tensor, hessian: Tensor, goal: Tensor, keep: Tensor, steps: int) -> Tensor:
    """Conjugate gradients on tr(V H Vᵀ) − 2 tr(V Gᵀ) over the weights kept, all rows at once, each with its own step.

    Args:
        weight: where to begin, zero where `keep` is False, (out, in).
        hessian: H, with a diagonal of ones, (in, in).
        goal: G, (out, in).
        keep: (out, in).
        steps: how many; as many as a row has weights left would be exact.
    """
    residual = (goal - weight @ hessian) * keep
    direction = residual
    size = residual.square().sum(1, keepdim=True)  # (out, 1)
    tiny = torch.finfo(torch.float32).tiny
    for _ in range(steps):
        image = (direction @ hessian) * keep
        step = size / (direction * image).sum(1, keepdim=True).clamp_min(tiny)
        weight = weight + step * direction
        residual = residual - step * image
        after = residual.square().sum(1, keepdim=True)
        direction = residual + after / size.clamp_min(tiny) * direction
        size = after
    return weight
