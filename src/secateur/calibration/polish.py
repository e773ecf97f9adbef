"""Conjugate gradients on the weights of a matrix that may change."""

import torch
from torch import Tensor


def polish(weight: Tensor, hessian: Tensor, goal: Tensor, keep: Tensor, steps: int) -> None:
    """Conjugate gradients on tr(V H Vᵀ) − 2 tr(V Gᵀ) over the weights kept, all rows at once, each with its own step.

    Args:
        weight: where to begin, zero where `keep` is False, (out, in); changed in place.
        hessian: H, with a diagonal of ones, (in, in).
        goal: G, (out, in).
        keep: (out, in).
        steps: how many; as many as a row has weights left would be exact.
    """
    residual = (goal - weight @ hessian).mul_(keep)
    direction = residual.clone()
    size = residual.square().sum(1, keepdim=True)  # (out, 1)
    tiny = torch.finfo(torch.float32).tiny
    for _ in range(steps):
        image = (direction @ hessian).mul_(keep)
        step = size / (direction * image).sum(1, keepdim=True).clamp_min(tiny)
        weight.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        after = residual.square().sum(1, keepdim=True)
        direction.mul_(after / size.clamp_min(tiny)).add_(residual)
        size = after
