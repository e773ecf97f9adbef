"""Reading a `pruning_plan.json`, of an earlier cut, of `search`, or written by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeGuard

import torch
from transformers import PreTrainedModel

from secateur.costs.reached import Reached
from secateur.errors import InputError
from secateur.files.input_text import shortened
from secateur.files.json_text import read_json
from secateur.models.halves import PARTS, Part
from secateur.models.widths import LayerWidths, layer_widths
from secateur.pruning.importance import PartScores
from secateur.pruning.multiples import UNITS
from secateur.pruning.plan import LayerPlan
from secateur.pruning.units import NEEDED, halves_there, identity, part_shapes

REMOVED: dict[Part, str] = {"attention": "removed_groups", "mlp": "removed_channels"}
WIDTH: dict[Part, str] = {"attention": "num_key_value_heads", "mlp": "intermediate_size"}
KEYS = {field.name for kind in (LayerPlan, LayerWidths) for field in fields(kind)} - {"before", "after"}


@dataclass
class PlannedCut:
    """A cut that a plan prescribes.

    Attributes:
        counts: how many units each half of each layer loses.
        units: for each layer, the halves whose units the plan names, as an order; the others' are for the cut to find.
        frozen: layers that were not to be cut.
        source: the file.
        target: what it was made to meet, where that was no ratio.
    """

    counts: dict[tuple[int, Part], int] = field(default_factory=dict)
    units: list[dict[Part, PartScores]] = field(default_factory=list)
    frozen: list[int] = field(default_factory=list)
    source: str = ""
    target: Reached | None = None

    @property
    def names_all_units(self) -> bool:
        """Whether nothing is left to be found."""
        return all(part in self.units[layer] for (layer, part), count in self.counts.items() if count)


def read_plan(path: str | Path, model: PreTrainedModel) -> PlannedCut:
    """Read a plan for a model.

    A layer's entry names the units that leave (`removed_groups`, `removed_channels`), or only the widths that stay
    (`num_key_value_heads`, `intermediate_size`: a number, or a pair of before and after). A layer that has no entry,
    and a half that the entry says nothing of, stays as it is.

    Raises:
        InputError: it is not such a file, or of another model.
    """
    layers, target = _entries(path, model)
    widths, shapes = layer_widths(model), part_shapes(model)
    cut = PlannedCut(units=[{} for _ in shapes], source=str(path), target=target)
    seen: set[int] = set()
    for entry in layers:
        unknown = sorted(entry.keys() - KEYS)
        if unknown:
            name = shortened(repr(unknown[0]))
            raise InputError(f"{path}: a layer's entry has no {name}; it can have {', '.join(sorted(KEYS))}")
        index: object = entry.get("layer")
        if not _is_count(index) or index >= len(shapes):
            raise InputError(
                f"{path}: 'layer' is {shortened(repr(index))}; this model has layers 0 to {len(shapes) - 1}"
            )
        if index in seen:
            raise InputError(f"{path}: layer {index} stands there twice")
        seen.add(index)
        for part in PARTS:
            units = shapes[index][part].units
            removed = _removed(entry, part, units, f"{path}: layer {index}")
            count = _count(entry, part, widths[index], removed, f"{path}: layer {index}")
            if removed is not None:
                order = torch.tensor(removed, dtype=torch.long)
                cut.units[index][part] = PartScores(order, torch.zeros(len(removed), dtype=torch.float64))
            cut.counts[index, part] = count
        if entry.get("frozen") is True:
            cut.frozen.append(index)
    if not any(cut.counts.values()):
        raise InputError(f"{path} removes nothing from this model")
    left = halves_there(shapes)
    for (index, part), count in cut.counts.items():
        shape = shapes[index][part]
        if count and not shape.divisible:
            raise InputError(f"{path}: layer {index}: units of its {part} cannot leave in this model; leave them out")
        if count == shape.units:
            if count and not shape.may_leave:
                raise InputError(f"{path}: layer {index}: its {part} cannot leave whole in this model; keep a unit")
            left[part].discard(index)
    for part, indices in left.items():
        if not indices:
            raise InputError(f"{path} leaves no {NEEDED[part]} in the model; keep at least one")
    return cut


def _entries(path: str | Path, model: PreTrainedModel) -> tuple[list[Mapping[str, Any]], Reached | None]:
    content = read_json(path, "is not a pruning_plan.json")
    layers = content.get("layers") if isinstance(content, dict) else None
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise InputError(f"{path} is not a pruning_plan.json: it has no list 'layers' with an entry for each layer")
    _require_own(path, content.get("model", {}), model)
    try:
        return layers, Reached.read(content.get("target"))
    except ValueError as error:
        raise InputError(f"{path} is not a pruning_plan.json: its 'target' {error}") from error


def _require_own(path: str | Path, stated: object, model: PreTrainedModel) -> None:
    """Check what a plan says of the model that it is of; earlier plans, and those by hand, say nothing."""
    if not isinstance(stated, dict):
        raise InputError(f"{path}: 'model' must say what model the plan is of, as prune and search write it")
    for key, own in identity(model).items():
        if key in stated and stated[key] != own:
            what = (
                "the sizes of its units are others"
                if key == "units"
                else f"its {key} is {shortened(repr(stated[key]))}"
            )
            here = "" if key == "units" else f", this one's {own!r}"
            raise InputError(f"{path} is a plan of another model: {what}{here}")


def _removed(entry: Mapping[str, Any], part: Part, units: int, place: str) -> list[int] | None:
    """The units that an entry names, sorted; None where it names none and leaves that to the cut."""
    removed = entry.get(REMOVED[part])
    if removed is None:
        return None
    if not isinstance(removed, list) or not all(_is_count(unit) for unit in removed):
        raise InputError(f"{place}: '{REMOVED[part]}' must be a list of indices")
    wrong = next((unit for unit in removed if unit >= units), None)
    if wrong is not None:
        raise InputError(f"{place}: '{REMOVED[part]}' names {wrong}; this model's layer has {units} {UNITS[part]}")
    if len(set(removed)) != len(removed):
        raise InputError(f"{place}: '{REMOVED[part]}' names a unit twice")
    return sorted(removed)


def _count(entry: Mapping[str, Any], part: Part, widths: LayerWidths, removed: Sequence[int] | None, place: str) -> int:
    """How many units leave, once widths and units are known to agree with each other and with the model."""
    name, have = WIDTH[part], getattr(widths, WIDTH[part])
    value = entry.get(name)
    if value is None:
        return len(removed or [])
    before, after = value if isinstance(value, list) and len(value) == 2 else (have, value)
    if not _is_count(before) or not _is_count(after):
        raise InputError(f"{place}: '{name}' must be a number, or a pair of numbers before and after the cut")
    if before != have:
        raise InputError(f"{place}: the plan is of a model with {name} {before}, this one has {have}")
    if after > have:
        raise InputError(f"{place}: '{name}' is to become {after}; it must lie between 0 and {have}")
    if removed is not None and have - after != len(removed):
        raise InputError(
            f"{place}: '{name}' goes from {have} to {after}, but '{REMOVED[part]}' names {len(removed)} to remove; "
            f"leave out '{REMOVED[part]}' to have them chosen"
        )
    return have - after


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
