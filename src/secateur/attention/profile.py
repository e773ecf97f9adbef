"""Tuned thresholds of a model's heads in one safetensors file."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from secateur.attention.config import BlockOptions
from secateur.errors import InputError, OutputError
from secateur.files import write_bytes
from secateur.files.json_text import parse_json
from secateur.models.fingerprint import same_weights
from secateur.showing import Drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "secateur attention profile 1"
EARLIER = {"samples": "windows"}  # names in what is told of the tuning
DENSE = 2.0


@dataclass(frozen=True)
class LayerProfile:
    """One layer's heads, each tensor (heads,).

    Attributes:
        cdfthreshd: mass that is covered; `DENSE` where all blocks are computed.
        pvthreshd: distance below the running maximum from which P·V is left out; infinite for never.
        sparsity: share of the blocks that tuning left out.
        pv_sparsity: share of P·V in the others that it left out.
        error: what both made of the head's output.
    """

    cdfthreshd: Tensor
    pvthreshd: Tensor
    sparsity: Tensor
    pv_sparsity: Tensor
    error: Tensor


@dataclass(frozen=True, repr=False)
class AttentionProfile(Drawn):
    """Thresholds of the layers that were tuned.

    Attributes:
        layers: by index; layers that are not there stay dense.
        blocks: how blocks are laid out and judged.
        fingerprint: of the model.
        tuning: what the thresholds were tuned to, and on.
    """

    layers: dict[int, LayerProfile]
    blocks: BlockOptions
    fingerprint: Tensor
    tuning: dict[str, Any]

    @property
    def sparsity(self) -> float:
        """Mean share of blocks left out, over all heads that were tuned."""
        return float(torch.cat([layer.sparsity for layer in self.layers.values()]).mean())

    def headline(self) -> str:
        return f"{self.sparsity:.1%} of the blocks left out, mean over the heads of {len(self.layers)} layers"

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [
            {"layer": index, "head": head, **{name: values[head].item() for name, values in vars(layer).items()}}
            for index, layer in sorted(self.layers.items())
            for head in range(len(layer.sparsity))
        ]

    def plot(self) -> "Figure":
        from secateur.report import attention_map, figure_of

        return figure_of(attention_map, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The figures for `--json`."""
        layers = [
            {
                "layer": index,
                "mean_sparsity": float(layer.sparsity.mean()),
                # JSON has no infinity.
                **{
                    name: [value if torch.isfinite(torch.tensor(value)) else None for value in values.tolist()]
                    for name, values in asdict(layer).items()
                },
            }
            for index, layer in sorted(self.layers.items())
        ]
        return {"mean_sparsity": self.sparsity, "layers": layers, "blocks": self.blocks.model_dump(), **self.tuning}

    def save(self, path: str | Path) -> None:
        """Write the profile. Raises `OutputError` where that fails."""
        tensors = {
            f"layers.{index}.{name}": value.contiguous()
            for index, layer in self.layers.items()
            for name, value in asdict(layer).items()
        }
        metadata = {
            "format": FORMAT,
            "blocks": self.blocks.model_dump_json(),
            "tuning": json.dumps(self.tuning),
        }
        write_bytes(path, save({**tensors, "fingerprint": self.fingerprint}, metadata))

    @classmethod
    def load(cls, path: str | Path) -> "AttentionProfile":
        """Read a profile. Raises `InputError` where the file is none."""
        if Path(path).is_dir():
            raise InputError(f"{path} is a directory; name the profile's file, FILE.safetensors")
        if not Path(path).is_file():
            raise InputError(f"{path} is not there; secateur attention tune MODEL -o {path} writes a profile")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is no attention profile ({error}); tune it anew") from error
        if metadata.get("format") != FORMAT:
            raise InputError(f"{path} is no attention profile; secateur attention tune MODEL -o FILE writes one")
        fields = LayerProfile.__dataclass_fields__
        try:
            numbers = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("layers.")})
            if len(tensors) != 1 + len(numbers) * len(fields):
                raise ValueError("other tensors than those of a profile")
            profile = cls(
                layers={
                    index: LayerProfile(**{name: tensors[f"layers.{index}.{name}"] for name in fields})
                    for index in numbers
                },
                blocks=BlockOptions.model_validate(parse_json(metadata["blocks"])),
                fingerprint=tensors["fingerprint"],
                tuning={EARLIER.get(name, name): value for name, value in parse_json(metadata["tuning"]).items()},
            )
            profile._check()
            return profile
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path} is a damaged attention profile; tune it anew") from error

    def _check(self) -> None:
        """Raise `ValueError` where the tensors are not what `tune` writes."""
        if not self.layers or min(self.layers) < 0:
            raise ValueError("no layers")
        if not self.fingerprint.is_floating_point() or self.fingerprint.dim() != 1:
            raise ValueError("no fingerprint")
        for layer in self.layers.values():
            values = [getattr(layer, name) for name in LayerProfile.__dataclass_fields__]
            if any(value.dtype != torch.float32 or value.dim() != 1 or value.isnan().any() for value in values):
                raise ValueError("not one number for each head")
            if len({len(value) for value in values}) > 1 or not len(layer.sparsity):
                raise ValueError("not one number for each head")
            if bool((layer.pvthreshd <= 0).any()) or not layer.cdfthreshd.isfinite().all():
                raise ValueError("a threshold that cannot be")
            if any(bool(((share < 0) | (share > 1)).any()) for share in (layer.sparsity, layer.pv_sparsity)):
                raise ValueError("a share that cannot be")

    def require_heads(self, heads: Sequence[int]) -> None:
        """Raise `InputError` unless the profile's layers have these numbers of heads, given for every layer."""
        for index, layer in self.layers.items():
            if index >= len(heads) or len(layer.cdfthreshd) != heads[index]:
                raise InputError("the profile does not fit the model's layers and heads; tune it anew")

    def require_model(self, fingerprint: Tensor) -> None:
        """Raise `InputError` unless the profile was tuned on the model of this fingerprint, in any number format."""
        if not same_weights(self.fingerprint, fingerprint):
            raise InputError(
                f"the profile was tuned on another model ({self.tuning.get('model', 'unknown')}); its thresholds say "
                "nothing of this one: tune it anew"
            )


def require_new(path: Path, overwrite: bool) -> None:
    """Check, before the work is done, where a profile will go.

    Raises:
        OutputError: it is a directory, cannot be written, or is there already and `overwrite` is off, or is something
            else than a profile.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OutputError(f"{path} is no ordinary file, and so is not replaced; name another file")
    if path.is_dir():
        raise OutputError(f"{path} is a directory; name a file for the profile, {path / 'profile.safetensors'}")
    if path.is_file() and not overwrite:
        raise OutputError(f"{path} is there already; name another file or pass --overwrite")
    if path.is_file():
        try:
            AttentionProfile.load(path)
        except InputError as error:
            raise OutputError(f"{path} is not a profile, and so is not replaced; name another file") from error
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OutputError(f"{path} cannot be written; name a file in a directory that can")
