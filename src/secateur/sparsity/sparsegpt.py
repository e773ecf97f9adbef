"""SparseGPT: columns one after another, each error passed on to the columns after it.

Frantar & Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot".
"""

import torch
from torch import Tensor

from secateur.sparsity.quota import Quota


def sparsegpt(weight: Tensor, hessian: Tensor, quota: Quota, block_size: int = 128) -> Tensor:
    """Prune a matrix by optimal brain surgeon with the inverse Hessian shared by all rows.

    The mask is chosen a block of columns at a time by |w| / U_cc, H⁻¹ = UᵀU, all rows of the block in one
    ranking; with a pattern, a group at a time, row by row.

    Args:
        weight: W, (out_features, in_features).
        hessian: H, the damped second moments of the inputs, (in_features, in_features).
        quota: how many zeros.
        block_size: columns whose mask is chosen at once.

    Returns:
        The weights left, with zeros, (out_features, in_features) float32. What was zero before stays zero.
    """
    allowed = weight != 0
    weight = weight.float().clone()
    group = quota.pattern.group if quota.pattern else 1
    block_size = group * max(1, block_size // group)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian.double()))
    upper = torch.linalg.cholesky(inverse, upper=True).float()  # H⁻¹ = UᵀU
    zeros_before = 0
    for start in range(0, quota.columns, block_size):
        end = min(start + block_size, quota.columns)
        block, errors = weight[:, start:end].clone(), torch.empty_like(weight[:, start:end])
        factor = upper[start:end, start:end]
        zeros = round(quota.zeros * end / quota.columns) - zeros_before
        zeros_before += zeros
        keep = may_stay = allowed[:, start:end].clone()
        if quota.pattern is None:
            whole = Quota(quota.rows, end - start, zeros, per_row=False, row_weights=quota.row_weights)
            keep = whole.keep(block.abs() / factor.diagonal(), may_stay)
        for column in range(end - start):
            if quota.pattern is not None and column % group == 0:
                place = slice(column, column + group)
                inside = Quota.of_pattern(quota.rows, group, quota.pattern)
                scores = block[:, place].square() / factor.diagonal()[place].square()
                keep[:, place] = inside.keep(scores, may_stay[:, place])
            left = block[:, column] * keep[:, column]
            errors[:, column] = (block[:, column] - left) / factor[column, column]
            block[:, column:] -= errors[:, column, None] * factor[column, column:]
            block[:, column] = left
        weight[:, start:end] = block
        weight[:, end:] -= errors @ upper[start:end, end:]
    return weight
