"""How sparse each matrix may be: one ranking of all weights by the rise of the loss that their removal should bring.

A weight w_ij between input x_j and output y_i whose removal changes y_i by w_ij x_j costs about ½ w_ij² E[x_j²] E[g²],
g = ∂L/∂y_i: the diagonal of the empirical Fisher information, its two factors taken as independent. E[g²] is taken as
its mean over a matrix's outputs where matrices are held against each other. Within a matrix it is a row's own, but only
its fourth root weighs the scores |w|·‖x‖ instead of its square root: a few windows do not give it well.

LeCun et al. 1989, "Optimal Brain Damage"; Martens & Grosse 2015, "Optimizing Neural Networks with Kronecker-factored
Approximate Curvature".
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.calibration.gradients import only_gradients_of
from secateur.calibration.losses import chunked_loss
from secateur.console import track
from secateur.distributed import all_reduce_sum, shared_batches
from secateur.models.adapters import adapter_of
from secateur.sparsity.matrices import Matrix

SAMPLED_WEIGHTS = 20_000
LEAST_GRADIENT = 1e-3


@dataclass
class Flow:
    """Sums of squares over tokens at a projection: of its inputs, (in_features,), and of its outputs' gradients."""

    inputs: Tensor
    gradient: Tensor


def fisher_shares(
    model: PreTrainedModel,
    windows: Tensor,
    matrices: Sequence[Matrix],
    sparsity: float,
    reach: float,
    batch_size: int,
) -> tuple[list[float], list[Tensor]]:
    """Each matrix's share of zeros where all matrices lose their weights up to the same expected cost.

    Args:
        model: the uncut model.
        windows: tokens, (windows, seq); a few thousand tokens are enough.
        matrices: those that are cut.
        sparsity: the share of all of them together.
        reach: how far a matrix's share may be from it.
        batch_size: windows that go through the model at once.

    Returns:
        The shares, and for each matrix what a row's scores count for in a ranking of all its weights, (rows, 1).
    """
    with _flows(model, [matrix.linear for matrix in matrices]) as flows:
        for batch in track(shared_batches(windows, batch_size), "Sensitivity of projections"):
            tokens = batch.to(model.device)
            hidden = adapter_of(model).body(model)(tokens, use_cache=False).last_hidden_state
            chunked_loss(model, hidden, tokens).backward()
    for flow in flows.values():
        all_reduce_sum(flow.inputs)
        all_reduce_sum(flow.gradient)
    costs = [_sampled_costs(matrix.linear, flows[matrix.linear]) for matrix in matrices]
    sizes = torch.tensor([matrix.parameters for matrix in matrices], dtype=torch.float64)
    low, high = max(sparsity - reach, sparsity / 2), min(sparsity + reach, (1 + sparsity) / 2)

    def shares(threshold: Tensor) -> Tensor:
        found = [float(torch.searchsorted(cost, threshold)) / len(cost) for cost in costs]
        return torch.tensor(found, dtype=torch.float64).clamp(low, high)

    least, most = torch.stack([cost[0] for cost in costs]).min(), torch.stack([cost[-1] for cost in costs]).max()
    for _ in range(60):
        middle = (least + most) / 2
        if float((shares(middle) * sizes).sum()) < sparsity * float(sizes.sum()):
            least = middle
        else:
            most = middle
    found = shares(least)
    # The costs are sampled, so the mean is not yet exact.
    exact = (found + sparsity - (found * sizes).sum() / sizes.sum()).tolist()
    return exact, [_row_weights(flows[matrix.linear]) for matrix in matrices]


def _row_weights(flow: Flow) -> Tensor:
    """√|g| of each row against their mean, (rows, 1)."""
    gradient = flow.gradient.sqrt()
    mean = gradient.mean().clamp_min(torch.finfo(torch.float32).tiny)
    return (gradient / mean).clamp_min(LEAST_GRADIENT).sqrt()[:, None]


@torch.no_grad()
def _sampled_costs(linear: nn.Linear, flow: Flow) -> Tensor:
    """Logarithms of the costs of evenly spaced weights, in rising order, (samples,)."""
    costs = (linear.weight.float().square() * flow.inputs * flow.gradient.mean()).flatten()
    sampled = costs[:: max(1, len(costs) // SAMPLED_WEIGHTS)].double().cpu()
    return sampled.clamp_min(torch.finfo(torch.float64).tiny).log().sort().values


@contextmanager
def _flows(model: PreTrainedModel, linears: Sequence[nn.Linear]) -> Iterator[dict[nn.Linear, Flow]]:
    """Gather the flow through projections while the block runs forward and backward passes."""
    flows = {
        linear: Flow(
            torch.zeros(linear.in_features, device=linear.weight.device),
            torch.zeros(linear.out_features, device=linear.weight.device),
        )
        for linear in linears
    }

    def forward(linear: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        flows[linear].inputs += inputs[0].detach().flatten(0, -2).float().square().sum(0)
        output.register_hook(lambda gradient: backward(linear, gradient))

    def backward(linear: nn.Linear, gradient: Tensor) -> None:
        flows[linear].gradient += gradient.flatten(0, -2).float().square().sum(0)

    embedding = model.get_input_embeddings()
    handles = [linear.register_forward_hook(forward) for linear in linears]
    handles.append(embedding.register_forward_hook(lambda _, inputs, output: output.requires_grad_(True)))
    try:
        with only_gradients_of(model, []):
            yield flows
    finally:
        for handle in handles:
            handle.remove()
