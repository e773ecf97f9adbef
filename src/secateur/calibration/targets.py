"""What an output projection should give so that the residual stream comes back to the uncut model's.

The stream goes on as h + m N(y), y = W x, with the half's factor m and, in some families, a norm N after the
projection. Without the norm W x is fitted to (h' − h) / m, h' being the uncut stream. With it, N(y) = g ⊙ y / rms(y),
what is fitted is what goes into the norm: the uncut model's own y = t, and with it what the stream before lacks,

    (W x) / rms(t)  towards  t / rms(t) + e / g,   e = (h' − h) / m − N(t),

so that each token counts by 1 / rms(t)², as the norm scales it. Where a gain g is near 0 nothing can be mended through
it, and 1 / g is g / (g² + ε²). What the norm takes off the error, its part along t, is counted all the same.
"""

from collections.abc import Iterable, Iterator, MutableSequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from secateur.calibration.streaming import LayerStream
from secateur.models.halves import Half

USUAL_EPS = 1e-6
LEAST_GAIN = 0.1  # of a norm: of the root mean square of all

# For weights that are only rounded: the whole way fits the calibration text closer and other text less.
SHARE = 0.3


def towards(
    half: Half,
    inputs: Iterable[Tensor],
    hidden: Iterable[Tensor],
    goals: Iterable[Tensor],
    mixed: Iterable[Tensor] | None,
    own: Iterable[Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """A half's output projection's inputs with what it should give for them, scaled as above, for each batch.

    Args:
        half: of the cut model.
        inputs: of its output projection, in the cut stream, (batch, seq, in_features).
        hidden: the cut stream before the half, (batch, seq, hidden_size).
        goals: the uncut stream after it.
        mixed: what the uncut model's output projection gives; needed where a norm stands after it.
        own: what the projection gives in the cut stream, without its bias, (batch, seq, out_features); targets then lie
            a `SHARE` of the way from there.

    Yields:
        Inputs (tokens, in_features) and targets (tokens, out_features), on the projection's device.
    """
    bias, place = half.output.bias, half.output.weight.device
    outputs: Iterable[Tensor | None] = repeat(None) if mixed is None else mixed
    starts: Iterable[Tensor | None] = repeat(None) if own is None else own
    for batch, before, goal, given, start in zip(inputs, hidden, goals, outputs, starts, strict=False):
        batch = batch.to(place)
        missing = goal.to(place) - before.to(place)
        if half.multiplier != 1:
            missing = missing / half.multiplier
        if half.norm_after is None:
            target = missing if bias is None else missing - bias
            yield batch.flatten(0, -2), _part_way(start, target).flatten(0, -2)
            continue
        assert given is not None
        given = given.to(place)
        scale = per_token(half, given)  # (batch, seq, 1)
        gain = gains(half)
        error = (missing - half.norm_after(given)).float()
        target = given.float() * scale + error * gain / (gain.square() + _least(gain) ** 2)
        if bias is not None:
            target = target - bias.float() * scale
        start = None if start is None else start.to(place).float() * scale
        yield (batch.float() * scale).flatten(0, -2), _part_way(start, target).flatten(0, -2)


def _part_way(start: Tensor | None, target: Tensor) -> Tensor:
    return target if start is None else start.to(target.device).float().lerp(target.float(), SHARE)


def advance_with_outputs(stream: LayerStream, index: int, half: Half) -> MutableSequence[Tensor] | None:
    """Run a half over a stream.

    Returns:
        What its output projection gives, (batch, seq, hidden_size), where a norm stands after it; else None.
    """
    if half.norm_after is None:
        stream.run(index, half)
        return None
    mixed = stream.stored(stream.mixed(index, half))
    stream.end(half, mixed)
    return mixed


def as_the_norm_scales(half: Half, inputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """The inputs of an output projection, (tokens, in_features), each scaled as a norm after it scales its output."""
    place = half.output.weight.device
    for batch in inputs:
        batch = batch.to(place)
        if half.norm_after is not None:
            batch = batch.float() * per_token(half, half.output(batch))
        yield batch.flatten(0, -2)


def metric_of_outputs(half: Half, metric: Tensor | None) -> Tensor | None:
    """R for errors of an output projection so scaled, given that of the stream, (hidden_size, hidden_size).

    Args:
        metric: upper triangular; the identity if None. The result is as well.
    """
    if half.norm_after is None:
        return metric if metric is None or half.multiplier == 1 else metric * half.multiplier
    gain = gains(half).abs()
    gain = half.multiplier * gain.clamp_min(_least(gain))
    return gain.diag() if metric is None else metric.to(gain) * gain


def error_factor(half: Half, metric: Tensor | None) -> float:
    """What squared errors by `metric_of_outputs` are to be multiplied by, to be those of the stream."""
    return half.multiplier**2 if metric is None and half.norm_after is None else 1.0


def per_token(half: Half, mixed: Tensor) -> Tensor:
    """1 / rms of an output projection's output as the norm after it has it, (batch, seq, 1)."""
    norm: Any = half.norm_after
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None) or USUAL_EPS
    return (mixed.float().square().mean(-1, keepdim=True) + float(eps)).rsqrt()


@torch.no_grad()
def gains(half: Half) -> Tensor:
    """g of the norm after the output projection, (hidden_size,): by what it makes of 1, −1, 1 … and of the opposite.

    So a LayerNorm's bias, and the mean that it takes off, stay out of it.
    """
    assert half.norm_after is not None
    weight = half.output.weight
    signs = torch.ones(half.output.out_features, device=weight.device, dtype=weight.dtype)
    signs[1::2] = -1
    found: Tensor = half.norm_after(signs).float() - half.norm_after(-signs).float()
    return found * signs.float() / 2


def _least(gain: Tensor) -> Tensor:
    return LEAST_GAIN * gain.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
