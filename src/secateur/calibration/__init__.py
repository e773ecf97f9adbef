"""Text through the layers: windows, the model's own text, streaming, moments, gradients, sensitivity, losses."""

from secateur.calibration.losses import chunked_loss, token_losses
from secateur.calibration.own_text import own_text

__all__ = ["chunked_loss", "own_text", "token_losses"]
