"""The scales of layers that a stopped walk has rounded, which their written weights alone do not say."""

from torch import Tensor
from transformers import PreTrainedModel

from secateur.calibration.walks import Walks
from secateur.models.adapters import adapter_of
from secateur.models.rounded import rounded_of
from secateur.rounding.config import Rounding
from secateur.rounding.halves import note_scale


def scales_of(model: PreTrainedModel, index: int) -> dict[str, Tensor]:
    """The scales of a layer's rounded projections, for `Walks.keep`."""
    adapter = adapter_of(model)
    projections = adapter.projections(adapter.layers(model)[index])
    found = ((name, rounded_of(linear)) for name, linear in projections.items())
    return {f"scale.{name}": note.scale for name, note in found if note is not None}


def note_kept_scales(walks: Walks, walk: str, model: PreTrainedModel, index: int, rounding: Rounding) -> None:
    """Note on a layer's projections the scales that an earlier try has kept of them.

    Raises:
        InputError: the file is damaged.
    """
    adapter = adapter_of(model)
    linears = adapter.projections(adapter.layers(model)[index])
    shapes = {
        f"scale.{name}": (linear.out_features, linear.in_features // rounding.grid(linear).group)
        for name, linear in linears.items()
    }
    kept = walks.found(walk, index, list(shapes), lambda kept: all(kept[name].shape == shapes[name] for name in shapes))
    for name, linear in linears.items():
        note_scale(linear, kept[f"scale.{name}"], rounding)
