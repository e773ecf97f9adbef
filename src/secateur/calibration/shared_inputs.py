"""Projections with the same inputs, fitted together: what they are fitted to, and their work shared by processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from secateur.distributed import broadcast, process_count, process_number

Solved = tuple[Tensor, ...]  # new weights, and what else was found of a projection


def tokens(inputs: Iterable[Tensor], targets: Iterable[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches and positions in one row, on one device."""
    for one, other in zip(inputs, targets, strict=True):
        yield one.flatten(0, -2), other.to(one.device).flatten(0, -2)


def by_norm(pairs: Iterable[tuple[Tensor, Tensor]], hidden: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets over the root mean square of the hidden states there, as the next norm will scale them."""
    for (inputs, target), states in zip(pairs, hidden, strict=True):
        square = states.to(inputs.device).flatten(0, -2).float().square().mean(-1, keepdim=True)
        scale = square.clamp_min(torch.finfo(torch.float32).tiny).rsqrt()  # (tokens, 1)
        yield inputs.float() * scale, target.float() * scale


def own_outputs(linear: nn.Linear, cross: Tensor) -> Tensor:
    """XᵀT for targets T = X'Wᵀ, from XᵀX' with the inputs X' of the uncut model."""
    return cross @ linear.weight.float().T


@torch.no_grad()
def share_out(
    linears: Sequence[nn.Linear],
    solve: Callable[[nn.Linear], Solved],
    blanks: Callable[[nn.Linear], Solved] = lambda _: (),
) -> dict[nn.Linear, Solved]:
    """Put new weights into projections with the same inputs, each solved by one process, which sends them to all.

    Args:
        linears: the projections.
        solve: their new weights, and what else is found of them.
        blanks: of that, tensors of the same shapes, in which the other processes get it.

    Returns:
        For each projection what else was found.
    """
    solvers = [number % process_count() for number in range(len(linears))]
    found: dict[nn.Linear, Solved] = {}
    for linear, solver in zip(linears, solvers, strict=True):
        if solver == process_number():
            solved, *others = solve(linear)
            found[linear] = tuple(others)
            linear.weight.copy_(solved)
        else:
            found[linear] = blanks(linear)
    for linear, solver in zip(linears, solvers, strict=True):
        linear.weight.copy_(broadcast(linear.weight, solver))
        found[linear] = tuple(broadcast(other, solver) for other in found[linear])
    return found
