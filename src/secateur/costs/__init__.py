"""What a model costs to keep and to run: bytes of weights and cache, milliseconds for a decoded token."""

from secateur.costs.config import Targets
from secateur.costs.measure import Bytes, Measure, Milliseconds
from secateur.costs.memory import bytes_of

__all__ = ["Bytes", "Measure", "Milliseconds", "Targets", "bytes_of"]
