"""Optimal brain surgeon for whole blocks of inputs: what is lost when a block goes and the rest is re-fitted.

Hassibi & Stork 1993; for structures of transformers ZipLM (Kurtic 2023) and SlimGPT (Ling 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor


@dataclass
class RemovalOrder:
    """Blocks in the order in which they are best removed.

    Attributes:
        blocks: block indices, the most dispensable first, (removable,).
        errors: the error of the outputs after the first 1, 2, … of them are gone and the rest is re-fitted, beyond what
            it was with all blocks there, squared or by a metric, (removable,).
        weights: the re-fitted projection after as many removals as the key says, (out_features, inputs), float32;
            the columns of removed blocks are zero.
    """

    blocks: Tensor
    errors: Tensor
    weights: dict[int, Tensor] = field(default_factory=dict)

    @property
    def costs(self) -> Tensor:
        """What each removal adds to the error, (removable,)."""
        return torch.diff(self.errors, prepend=self.errors.new_zeros(1))


def removal_order(
    inverse: Tensor,
    weight: Tensor,
    block_size: int,
    limit: int | None = None,
    steps: int = 32,
    weights_at: Sequence[int] = (),
    metric: Tensor | None = None,
) -> RemovalOrder:
    """Remove blocks greedily, each time those whose removal costs least after the best re-fit.

    A block S costs tr(W_S (H⁻¹_SS)⁻¹ W_Sᵀ); its removal changes the rest by −W_S (H⁻¹_SS)⁻¹ H⁻¹_S: . The best re-fit
    is the same for every metric of the outputs' error, so under a metric W stands for R W. What the removals leave of
    H⁻¹ is H⁻¹ − FᵀF, the rest of a Cholesky factorisation that takes its pivots in the order of removal: so only the
    rows of H⁻¹ are computed anew whose blocks leave, and of them what belongs to blocks that are still there.

    Args:
        inverse: H⁻¹ of the damped second moments of the inputs, (inputs, inputs); its number format is worked in.
        weight: the output projection, best re-fitted with all inputs, (out_features, inputs).
        block_size: consecutive inputs that leave together: 1 for MLP channels, the width of a GQA group's query
            heads for attention.
        limit: how many blocks to remove; all but one unless given.
        steps: about how many rounds; in each the cheapest of the blocks left go together.
        weights_at: numbers of removals after which the re-fitted projection is wanted, none above `limit`.
        metric: R, (out_features, out_features), upper triangular: the outputs' error δ counts ‖R δ‖², ‖δ‖² if None.
    """
    metric = None if metric is None else metric.to(inverse)
    weight = weight.to(inverse) if metric is None else metric @ weight.to(inverse)
    size, out_features = inverse.shape[0], weight.shape[0]
    count = size // block_size
    removable = count - 1 if limit is None else limit
    stops = sorted({*range(0, removable, max(1, removable // steps)), *weights_at, removable})
    # Blocks that are left stand first in these: where one leaves, one of the last takes its place.
    blocks = torch.arange(count, device=inverse.device)
    diagonal = diagonal_blocks(inverse, block_size)
    rows = weight.T.contiguous()  # Wᵀ, (inputs, out_features)
    factor = inverse.new_empty(size, removable * block_size)  # Fᵀ, (inputs, inputs removed)

    def refitted(left: int) -> Tensor:
        fitted = rows[: left * block_size].T
        if metric is not None:
            fitted = torch.linalg.solve_triangular(metric, fitted, upper=True)
        return fitted.new_zeros(out_features, size).index_copy_(1, _inputs(blocks[:left], block_size), fitted).float()

    errors: list[Tensor] = []
    weights = {0: refitted(count)} if 0 in weights_at else {}
    total = torch.zeros((), dtype=torch.float64, device=inverse.device)
    for removed, following in pairwise(stops):
        left, done, end = count - following, removed * block_size, following * block_size
        present = (count - removed) * block_size
        costs = block_costs(diagonal[: count - removed], rows[:present])
        chosen = costs.argsort()[: following - removed]
        going = _inputs(chosen, block_size)
        inputs = _inputs(blocks[: count - removed], block_size)
        columns = inverse.index_select(0, inputs[going]).index_select(1, inputs).T  # H⁻¹_:S, (present, going)
        columns.addmm_(factor[:present, :done], factor[going, :done].T, alpha=-1)
        upper = torch.linalg.cholesky(columns[going], upper=True)  # H⁻¹_SS = UᵀU
        change = torch.linalg.solve_triangular(upper.T, rows[going], upper=False)  # U⁻ᵀ W_Sᵀ
        step_error = change.square().sum(dtype=torch.float64)
        # Within a step the joint error is shared out in proportion to the single costs.
        share = costs[chosen].double().clamp_min(torch.finfo(torch.float64).tiny).cumsum(0)
        errors.append(total + step_error * share / share[-1])
        total = total + step_error

        last = torch.arange(left, count - removed, device=inverse.device)
        holes, fillers = chosen[chosen < left], last[~torch.isin(last, chosen)]
        blocks[left : count - removed], blocks[holes] = blocks[chosen], blocks[fillers]
        diagonal[holes] = diagonal[fillers]
        for table in (rows, factor, columns):
            table[_inputs(holes, block_size)] = table[_inputs(fillers, block_size)]

        present = left * block_size
        columns = torch.linalg.solve_triangular(upper, columns[:present], upper=True, left=False)  # H⁻¹_:S U⁻¹
        rows[:present].addmm_(columns, change, alpha=-1)
        by_block = columns.view(left, block_size, columns.shape[1])  # (left, size, going)
        diagonal[:left].baddbmm_(by_block, by_block.mT, alpha=-1)
        factor[:present, done:end] = columns
        if following in weights_at:
            weights[following] = refitted(left)
    # The first to leave stands last.
    order = [blocks[count - following : count - removed] for removed, following in pairwise(stops)]
    if not order:
        return RemovalOrder(torch.empty(0, dtype=torch.long), total.new_empty(0), weights)
    return RemovalOrder(torch.cat(order), torch.cat(errors), weights)


def diagonal_blocks(inverse: Tensor, block_size: int) -> Tensor:
    """The blocks on the diagonal of a matrix, (blocks, size, size)."""
    count = inverse.shape[0] // block_size
    return inverse.view(count, block_size, count, block_size).diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()


def block_costs(diagonal: Tensor, rows: Tensor) -> Tensor:
    """tr(W_S (H⁻¹_SS)⁻¹ W_Sᵀ) for each block S of consecutive inputs, (blocks,).

    Args:
        diagonal: H⁻¹_SS of each block, (blocks, size, size).
        rows: Wᵀ, (blocks * size, out_features).
    """
    if diagonal.shape[1] == 1:
        return torch.linalg.vector_norm(rows, dim=1).square() / diagonal.flatten()
    by_block = rows.view(len(diagonal), diagonal.shape[1], -1)  # (blocks, size, out)
    # One by one: solving a batch was seen to hang after torch.set_num_threads in the same process.
    solved = torch.stack([torch.linalg.solve(block, row) for block, row in zip(diagonal, by_block, strict=True)])
    return (solved * by_block).sum((1, 2))


def _inputs(blocks: Tensor, block_size: int) -> Tensor:
    """The inputs of blocks, (blocks * block_size,)."""
    return (blocks[:, None] * block_size + torch.arange(block_size, device=blocks.device)).flatten()
