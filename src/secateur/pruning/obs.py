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
    is the same for every metric of the outputs' error, so under a metric W stands for R W.

    Args:
        inverse: H⁻¹ of the damped second moments of the inputs, (inputs, inputs), float64.
        weight: the output projection, best re-fitted with all inputs, (out_features, inputs).
        block_size: consecutive inputs that leave together: 1 for MLP channels, the width of a GQA group's query
            heads for attention.
        limit: how many blocks to remove; all but one unless given.
        steps: about how many rounds; in each the cheapest of the blocks left go together.
        weights_at: numbers of removals after which the re-fitted projection is wanted, none above `limit`.
        metric: R, (out_features, out_features), upper triangular: the outputs' error δ counts ‖R δ‖², ‖δ‖² if None.
    """
    inverse, weight = inverse.clone(), weight.double().clone()
    metric = None if metric is None else metric.to(weight)
    if metric is not None:
        weight = metric @ weight

    def unweighted() -> Tensor:
        return (weight if metric is None else torch.linalg.solve_triangular(metric, weight, upper=True)).float()

    count = inverse.shape[0] // block_size
    removable = count - 1 if limit is None else limit
    per_step = max(1, removable // steps)
    stops = sorted({*range(0, removable, per_step), *weights_at, removable})
    alive = torch.ones(count, dtype=torch.bool, device=inverse.device)
    order: list[Tensor] = []
    errors: list[Tensor] = []
    weights = {0: unweighted()} if 0 in weights_at else {}
    total = torch.zeros((), dtype=torch.float64, device=inverse.device)
    for removed, following in pairwise(stops):
        costs = block_costs(inverse, weight, block_size).masked_fill(~alive, torch.inf)
        chosen = costs.argsort()[: following - removed]
        columns = (chosen[:, None] * block_size + torch.arange(block_size, device=chosen.device)).flatten()
        precision = torch.linalg.inv(inverse[columns[:, None], columns])  # (H⁻¹_SS)⁻¹
        change = weight[:, columns] @ precision  # (out_features, columns)
        step_error = (change * weight[:, columns]).sum()
        # Within a step the joint error is shared out in proportion to the single costs.
        share = costs[chosen].clamp_min(torch.finfo(torch.float64).tiny).cumsum(0)
        errors.append(total + step_error * share / share[-1])
        total = total + step_error
        order.append(chosen)
        rows = inverse[columns].clone()  # (columns, inputs)
        weight.addmm_(change, rows, alpha=-1)
        inverse.addmm_(rows.T, precision @ rows, alpha=-1)
        weight[:, columns] = 0
        inverse[columns] = 0
        inverse[:, columns] = 0
        inverse[columns, columns] = 1
        alive[chosen] = False
        if following in weights_at:
            weights[following] = unweighted()
    if not order:
        return RemovalOrder(torch.empty(0, dtype=torch.long), inverse.new_empty(0), weights)
    return RemovalOrder(torch.cat(order), torch.cat(errors), weights)


def block_costs(inverse: Tensor, weight: Tensor, block_size: int) -> Tensor:
    """tr(W_S (H⁻¹_SS)⁻¹ W_Sᵀ) for each block S of consecutive inputs, (blocks,)."""
    if block_size == 1:
        return weight.square().sum(0) / inverse.diagonal()
    count = inverse.shape[0] // block_size
    diagonal = inverse.view(count, block_size, count, block_size)
    blocks = torch.stack([diagonal[block, :, block] for block in range(count)])  # (blocks, size, size)
    columns = weight.view(weight.shape[0], count, block_size).permute(1, 2, 0)  # (blocks, size, out)
    # One by one: solving a batch was seen to hang after torch.set_num_threads in the same process.
    solved = torch.stack([torch.linalg.solve(block, column) for block, column in zip(blocks, columns, strict=True)])
    return (solved * columns).sum((1, 2))
