"""Results of several measurements, read back and put side by side."""

from secateur.comparison.calls import compare
from secateur.comparison.comparison import Comparison

__all__ = ["Comparison", "compare"]
