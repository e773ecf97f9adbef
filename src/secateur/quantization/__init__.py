"""Quantisation: weights of 4 or 8 bits by GPTQ, layer by layer."""

from secateur.quantization.config import QuantizeConfig
from secateur.quantization.quantize import QuantizedMatrix, QuantizeResult, quantize

__all__ = ["QuantizeConfig", "QuantizeResult", "QuantizedMatrix", "quantize"]
