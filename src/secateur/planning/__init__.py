"""What a model's phases need in memory and time on given devices, from its `config.json` alone."""

from secateur.planning.config import PlanConfig
from secateur.planning.estimates import ModelEstimate, estimate
from secateur.planning.estimates import estimate as plan
from secateur.planning.layouts import PhaseEstimate
from secateur.planning.shape import ModelShape, shape_of
from secateur.planning.source import model_shape

__all__ = ["ModelEstimate", "ModelShape", "PhaseEstimate", "PlanConfig", "estimate", "model_shape", "plan", "shape_of"]
