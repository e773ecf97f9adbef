"""Outlier weighed layerwise sparsity: layers with more outliers keep more weights.

Yin et al. 2023, "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High Sparsity".
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.calibration.moments import Norms
from secateur.calibration.streaming import LayerStream, onto
from secateur.console import track
from secateur.models.adapters import adapter_of
from secateur.sparsity.scores import wanda


def outlier_shares(model: PreTrainedModel, stream: LayerStream, threshold: float) -> list[float]:
    """Share of outliers among each layer's weights: Wanda scores above `threshold` times the layer's mean.

    Args:
        model: the uncut model.
        stream: calibration text before the first layer; it is advanced to the end.
        threshold: M in the paper.
    """
    found = []
    for index, _ in enumerate(track(adapter_of(model).layers(model), "Counting outliers")):
        scores = torch.cat([score.flatten() for score in _layer_scores(stream, index)])
        found.append(float((scores > threshold * scores.mean()).double().mean()))
    return found


@torch.no_grad()
def _layer_scores(stream: LayerStream, index: int) -> list[Tensor]:
    scores = []
    for half in stream.halves(index):
        *first, last = half.linears
        norms = Norms.of(stream.inputs(index, half, first[0])).root
        scores += [wanda(linear.weight.float(), norms.to(linear.weight.device)) for linear in first]
        inputs = stream.stored(stream.inputs(index, half, last))
        norms = Norms.of(onto(inputs, last.weight.device)).root
        scores.append(wanda(last.weight.float(), norms))
        stream.add(half, inputs)
    stream.end_layer(index)
    return scores


def layer_sparsities(outliers: Sequence[float], sizes: Sequence[int], sparsity: float, reach: float) -> list[float]:
    """Each layer's share of zeros, the less the more outliers; they differ by at most twice `reach`.

    Args:
        outliers: each layer's share of outliers.
        sizes: each layer's weights that are cut; the mean over them is `sparsity`.
        sparsity: of all layers together.
        reach: λ in the paper; less of it is used where shares would leave 0 to 1.
    """
    ratio = torch.tensor(outliers, dtype=torch.float64)
    weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    spread = ratio.max() - ratio.min()
    if spread == 0:
        return [sparsity] * len(outliers)
    density = 2 * min(reach, sparsity / 2, (1 - sparsity) / 2) * (ratio - ratio.min()) / spread
    return (sparsity - density + (density * weights).sum()).tolist()
