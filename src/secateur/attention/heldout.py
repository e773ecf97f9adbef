"""What a profile does on text that it was not tuned on."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.attention.blocks import choose
from secateur.attention.curve import Metric, pv_curve, threshold_curve
from secateur.attention.profile import AttentionProfile
from secateur.attention.sparse import predict
from secateur.attention.tuning import LayerInputs, attended
from secateur.calibration.streaming import LayerStream
from secateur.console import track


@dataclass(frozen=True)
class HeadErrors:
    """Of every head of the profile's layers, (heads of all layers,).

    Attributes:
        sparsity: share of blocks left out.
        error: what that makes of the head's output.
        pv_error: with P·V left out as well.
    """

    sparsity: Tensor
    error: Tensor
    pv_error: Tensor


def heldout_errors(
    model: PreTrainedModel, windows: Tensor, profile: AttentionProfile, metric: Metric = "l1"
) -> HeadErrors:
    """Errors of the heads' outputs on other text, by the same dense stream as in tuning.

    Args:
        model: the profile's model.
        windows: tokens, (windows, seq).
        profile: thresholds.
        metric: of the errors.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    stream = LayerStream.start(model, windows, batch_size=1)
    for index in track(range(1 + max(profile.layers)), "Measuring the profile"):
        inputs = attended(model, stream, index)
        stream.run(index, stream.half(index, "mlp"))
        stream.end_layer(index)
        if index in profile.layers:
            found += [_head_errors(inputs, profile, index, head, metric) for head in range(inputs.query.shape[1])]
    return HeadErrors(*(torch.stack(values) for values in zip(*found, strict=True)))


def _head_errors(
    inputs: LayerInputs, profile: AttentionProfile, index: int, head: int, metric: Metric
) -> tuple[Tensor, Tensor, Tensor]:
    layer, group = profile.layers[index], head * inputs.key.shape[1] // inputs.query.shape[1]
    query, key, value = inputs.query[:, head, None], inputs.key[:, group, None], inputs.value[:, group, None]
    grid = profile.blocks.grid(query.shape[2], key.shape[2], causal=True)
    prediction = predict(query, key, grid, inputs.scale, profile.blocks)
    threshold = layer.cdfthreshd[head, None]
    curve = threshold_curve(query, key, value, prediction, grid, inputs.scale, threshold, metric)
    chosen = choose(prediction, grid, threshold)
    second = pv_curve(query, key, value, chosen, grid, inputs.scale, layer.pvthreshd[head, None], metric)
    return curve.sparsity[0, 0].cpu(), curve.error[0, 0].cpu(), second.error[0, 0].cpu()
