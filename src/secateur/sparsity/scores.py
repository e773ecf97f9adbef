"""What a weight counts, as the papers write it. Shapes: weights (out_features, in_features)."""

from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """|W|. Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks"."""
    return weight.abs()


def wanda(weight: Tensor, norms: Tensor) -> Tensor:
    """|W| · ‖x‖₂. Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models".

    Args:
        weight: (out_features, in_features).
        norms: the 2-norm of each input over all calibration tokens, (in_features,).
    """
    return weight.abs() * norms
