"""GPTQ: columns rounded one after another, each error passed on to the columns after it.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers". Columns go in
order of descending diag(H), and groups are those of neighbouring columns all the same, so that nothing but scales needs
to be stored. What that leaves is lowered by coordinate descent on the levels, a column at a time with all others held,
and by scales that are re-fitted to them.
"""

import torch
from torch import Tensor

from secateur.calibration.moments import factored
from secateur.rounding.grid import Grid

BLOCK = 128
SWEEPS = 2


def gptq(
    weight: Tensor, hessian: Tensor, grid: Grid, sweeps: int = SWEEPS, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Round a matrix so that tr((W − Ŵ) H (W − Ŵ)ᵀ) is small.

    Args:
        weight: W, (out_features, in_features). What is zero stays zero, exactly.
        hessian: H, the damped second moments of the inputs, (in_features, in_features).
        grid: what weights may be.
        sweeps: of coordinate descent, and of re-fitted scales, after GPTQ itself.
        scale: scales to begin with, (out_features, groups); those of the least weighted error unless given.

    Returns:
        Levels, (out_features, in_features), and scales, (out_features, groups), float32.
    """
    allowed = weight != 0
    weight, hessian = weight.float(), hessian.float()
    order = hessian.diagonal().argsort(descending=True, stable=True)
    upper = _upper_factor_of_inverse(hessian[order][:, order])
    if scale is None:
        # What an error in a column costs once those after it have made up for what they can.
        costs = torch.empty_like(hessian.diagonal())
        costs[order] = upper.diagonal().square().reciprocal()
        scale = grid.best_scales(weight, costs)
    levels = torch.empty_like(weight)
    levels[:, order] = _column_by_column(
        weight[:, order], upper, _by_column(scale, grid)[:, order], allowed[:, order], grid
    )
    for _ in range(sweeps):
        scale = refitted_scales(weight, hessian, levels, scale, grid)
        descend(weight, hessian, levels, scale, allowed, grid)
    return levels, scale


def error(weight: Tensor, hessian: Tensor, levels: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """(w − ŵ) H (w − ŵ)ᵀ of each row, (out_features,)."""
    off = levels * _by_column(scale, grid) - weight.float()
    return ((off @ hessian.float()) * off).sum(1)


def _by_column(scale: Tensor, grid: Grid) -> Tensor:
    return scale.repeat_interleave(grid.group, 1)


def _column_by_column(weight: Tensor, upper: Tensor, scale: Tensor, allowed: Tensor, grid: Grid) -> Tensor:
    """GPTQ proper, over columns in the order in which they stand, each with a scale of its own; H⁻¹ = UᵀU."""
    weight, levels = weight.clone(), torch.empty_like(weight)
    columns = weight.shape[1]
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        # Columns are rows here, so that each lies in one piece.
        block, errors = weight[:, start:end].T.contiguous(), torch.empty_like(weight[:, start:end].T)
        factor = upper[start:end, start:end]
        for column in range(end - start):
            place, steps = start + column, scale[:, start + column]
            rounded = grid.levels(block[column], steps) * allowed[:, place]
            levels[:, place] = rounded
            errors[column] = (block[column] - rounded * steps) / factor[column, column]
            block[column:].sub_(torch.outer(factor[column, column:], errors[column]))
        weight[:, end:] -= errors.T @ upper[start:end, end:]
    return levels


def _upper_factor_of_inverse(hessian: Tensor) -> Tensor:
    """U with H⁻¹ = UᵀU, float32. Raises `torch.linalg.LinAlgError` where H is not definite."""
    norms = hessian.diagonal().double().sqrt()
    scaled = hessian.double().div_(norms).div_(norms[:, None])
    lower, _ = factored(scaled, check_errors=True)
    inverse = torch.cholesky_inverse(lower)
    upper = torch.linalg.cholesky(inverse, upper=True)
    return (upper / norms).float()


def descend(weight: Tensor, hessian: Tensor, levels: Tensor, scale: Tensor, allowed: Tensor, grid: Grid) -> None:
    """One sweep over the columns: each takes the levels that are best with all others as they are.

    Args:
        weight: W, (out_features, in_features).
        hessian: H, (in_features, in_features).
        levels: changed in place.
        scale: (out_features, groups).
        allowed: where levels may be other than zero.
        grid: what weights may be.
    """
    scales = _by_column(scale, grid)
    gradient = (levels * scales - weight) @ hessian  # (out, in)
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        inside = hessian[start:end, start:end]
        slope, moved = gradient[:, start:end].T.contiguous(), torch.empty_like(gradient[:, start:end].T)
        for column in range(end - start):
            place, steps = start + column, scales[:, start + column]
            before = levels[:, place]
            best = grid.levels(before * steps - slope[column] / inside[column, column], steps) * allowed[:, place]
            moved[column] = (best - before) * steps
            levels[:, place] = best
            slope.add_(torch.outer(inside[column], moved[column]))
        gradient[:, end:] += moved.T @ hessian[start:end, end:]


def refitted_scales(weight: Tensor, hessian: Tensor, levels: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """The scales of the least error for levels that are held, rounded as they will be stored.

    Of a row with scales s it is (s A s − 2 s b) with A_gh = l_g H_gh l_hᵀ and b_g = l_g H_g wᵀ. A row keeps the scales
    that it has where these come out no better once they are rounded.
    """
    group = grid.group
    left = weight @ hessian  # (out, in)
    linear = (levels * left).unflatten(1, (-1, group)).sum(-1)  # b, (out, groups)
    quadratic = torch.stack(
        [
            ((part @ rows) * levels).unflatten(1, (-1, group)).sum(-1)
            for part, rows in zip(levels.split(group, 1), hessian.split(group), strict=True)
        ],
        1,
    )  # A, (out, groups, groups)
    # A group whose levels are all zero keeps its scale.
    diagonal = quadratic.diagonal(dim1=1, dim2=2)
    held = diagonal.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) * 1e-6
    system = quadratic + torch.diag_embed(held.expand_as(diagonal))
    found, problem = torch.linalg.solve_ex(system.double(), (linear + held * scale).double())
    found = torch.where((problem == 0)[:, None] & found.isfinite().all(1, keepdim=True), found.float(), scale)
    found = grid.stored(torch.where(diagonal > 0, found, scale))

    def cost(scales: Tensor) -> Tensor:
        return ((quadratic @ scales[..., None]).squeeze(-1) * scales - 2 * linear * scales).sum(1)

    return torch.where((cost(found) < cost(scale))[:, None], found, scale)
