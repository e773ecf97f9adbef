"""Half a layer rounded on its way through the calibration text: re-fitted to the uncut model's stream, then rounded."""

from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence

import torch
from torch import Tensor, nn

from secateur.calibration.moments import Gram, Moments
from secateur.calibration.polish import polish
from secateur.calibration.shared_inputs import Solved, by_norm, own_outputs, share_out, tokens
from secateur.calibration.streaming import LayerStream, onto
from secateur.calibration.targets import SHARE, towards
from secateur.models.halves import Half
from secateur.models.rounded import Rounded, note_rounded
from secateur.rounding.config import Rounding
from secateur.rounding.gptq import gptq

STEPS = 24  # of conjugate gradients


def uncut_inputs(uncut: LayerStream, index: int, half: Half) -> MutableSequence[Tensor]:
    """What the uncut model's first projections get; to be asked for before its stream goes on."""
    return uncut.stored(uncut.inputs(index, half, half.linears[0]))


@torch.no_grad()
def round_half(
    cut: LayerStream,
    index: int,
    half: Half,
    given: Iterable[Tensor],
    goals: Sequence[Tensor],
    mixed: Iterable[Tensor] | None,
    rounding: Rounding,
) -> MutableSequence[Tensor]:
    """Re-fit and round the projections of half a layer, each on what the rounded ones before it give.

    What they are fitted to lies a `SHARE` of the way from what they give in the rounded model's stream, unrounded, to
    what brings that back to the uncut model's.

    Args:
        cut: the rounded model's stream, before the half.
        index: the layer.
        half: of the rounded model.
        given: what the uncut model's first projections get, (batch, seq, hidden_size) each.
        goals: the uncut stream after the half.
        mixed: what the uncut model's output projection gives; needed where a norm stands after it.
        rounding: how.

    Returns:
        The inputs of the rounded output projection, (batch, seq, in_features) each.
    """
    first, output = half.linears[:-1], half.output
    unrounded = cut.stored(cut.inputs(index, half, output))
    if first:
        round_first(first, cut.inputs(index, half, first[0]), given, rounding)
    inputs = cut.stored(cut.inputs(index, half, output))
    own = _outputs(output, unrounded)
    pairs = by_norm(towards(half, inputs, cut.hidden, goals, mixed, own), goals)
    round_together([output], Gram.of_pairs(pairs), rounding, lambda _, cross: cross)
    return inputs


@torch.no_grad()
def round_by_itself(cut: LayerStream, index: int, half: Half, rounding: Rounding) -> MutableSequence[Tensor]:
    """As `round_half`, fitted to what the projections give in the rounded model's stream, unrounded.

    For half a layer that a cut has just fitted to the uncut model's stream, on this one.
    """
    first, output = half.linears[:-1], half.output
    unrounded = cut.stored(cut.inputs(index, half, output))
    if first:
        round_first(first, cut.inputs(index, half, first[0]), None, rounding)
    inputs = cut.stored(cut.inputs(index, half, output))
    pairs = tokens(onto(inputs, output.weight.device), unrounded)
    round_together([output], Gram.of_pairs(pairs), rounding, own_outputs)
    return inputs


@torch.no_grad()
def round_first(
    linears: Sequence[nn.Linear], inputs: Iterable[Tensor], given: Iterable[Tensor] | None, rounding: Rounding
) -> None:
    """Round projections with the same inputs.

    Args:
        linears: the projections.
        inputs: theirs in the rounded model's stream, (batch, seq, in_features) each.
        given: in the uncut model's, if they are fitted a `SHARE` of the way from their outputs for `inputs` to those
            for these.
        rounding: how.
    """
    inputs = onto(inputs, linears[0].weight.device)
    if given is None:
        moments = Moments.of(batch.flatten(0, -2) for batch in inputs)
        gram = Gram(moments.inputs, moments.tokens, cross=moments.inputs.clone())
    else:
        gram = Gram.of_pairs(tokens(inputs, given))
        gram.cross.lerp_(gram.inputs, 1 - SHARE)
    round_together(linears, gram, rounding, own_outputs)


def _outputs(linear: nn.Linear, inputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """What a projection gives without its bias, as its weights are now."""
    weight = linear.weight.detach().clone()
    return (batch.to(weight.device) @ weight.T for batch in inputs)


@torch.no_grad()
def round_together(
    linears: Sequence[nn.Linear],
    gram: Gram,
    rounding: Rounding,
    wanted: Callable[[nn.Linear, Tensor], Tensor],
) -> None:
    """Re-fit and round projections with the same inputs.

    Args:
        linears: the projections; their weights are replaced, and the grid is noted on them.
        gram: second moments of the inputs, and with what is aimed at; used up.
        rounding: how.
        wanted: for a projection XᵀT, (in_features, out_features), out of the gram's cross moments.
    """
    ridge = gram.ridge_by_input(rounding.damping)
    hessian = gram.inputs
    hessian.diagonal().add_(ridge)

    def solve(linear: nn.Linear) -> Solved:
        weight = linear.weight.float()
        aim = wanted(linear, gram.cross) + ridge[:, None] * weight.T  # (in_features, out_features)
        return rounded(linear, _refitted(weight, hessian, aim), hessian, rounding)

    found = share_out(linears, solve, lambda linear: (blank_scale(linear, rounding),))
    for linear, (scale,) in found.items():
        note_scale(linear, scale, rounding)


def rounded(linear: nn.Linear, weight: Tensor, hessian: Tensor, rounding: Rounding) -> Solved:
    """New weights of a projection, on its grid and in its number format, and the grid's scales.

    Args:
        linear: the projection.
        weight: what its weights are to be, (out_features, in_features); those that are zero stay so.
        hessian: H, the damped second moments of its inputs, (in_features, in_features).
        rounding: how.
    """
    grid = rounding.grid(linear)
    levels, scale = gptq(weight, hessian, grid)
    stored = scale.to(rounding.dtype)
    return Rounded(grid.bits, grid.group, stored).weights(levels, linear.weight.dtype), stored


def blank_scale(linear: nn.Linear, rounding: Rounding) -> Tensor:
    """A tensor of the shape of a projection's scales."""
    groups = linear.in_features // rounding.grid(linear).group
    return torch.zeros(linear.out_features, groups, dtype=rounding.dtype, device=linear.weight.device)


def note_scale(linear: nn.Linear, scale: Tensor, rounding: Rounding) -> None:
    """Note on a projection the grid that its weights stand on now."""
    grid = rounding.grid(linear)
    note_rounded(linear, Rounded(grid.bits, grid.group, scale.to("cpu", rounding.dtype)))


def _refitted(weight: Tensor, hessian: Tensor, aim: Tensor) -> Tensor:
    """The weights V that minimise tr(V H Vᵀ) − 2 tr(V A), zero where they were.

    Args:
        weight: where to begin, (out_features, in_features).
        hessian: H, (in_features, in_features).
        aim: A, (in_features, out_features).
    """
    keep, norms = weight != 0, hessian.diagonal().sqrt()
    scaled = hessian / norms / norms[:, None]
    moved = weight * norms
    polish(moved, scaled, (aim / norms[:, None]).T, keep, STEPS)
    return moved / norms
