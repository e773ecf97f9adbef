"""A model larger than memory: its weights stay in their files, and a layer's are in memory while it is worked on.

Safetensors files are mapped, so weights are read when they are touched. What is added here: they leave memory once
they are done with, and a layer that was changed is written to a file of its own and mapped from there, so that changed
weights do not add up in memory either.
"""

import ctypes
import mmap
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.environment import memory_bytes
from secateur.errors import InputError
from secateur.files import write_bytes

MOST_OF_MEMORY = 0.6
PAGE_OUT = 21  # MADV_PAGEOUT of Linux: pages go, what was changed of them stays known
ATTRIBUTE = "secateur_streamed"
Regions = list[tuple[int, int]]


@dataclass
class Streamed:
    """Where the layers of a streamed model go that were changed.

    Attributes:
        directory: holds a file for each.
        regions: from where to where the model's own files are mapped.
        temporary: the same, where it goes with the model.
    """

    directory: Path
    regions: Regions
    temporary: tempfile.TemporaryDirectory[str] | None = None

    def file(self, index: int) -> Path:
        return self.directory / f"walk-layer-{index:04}.safetensors"


def fits_in_memory(size: int) -> bool:
    """Whether weights of so many bytes leave room for work with them in this machine's memory."""
    return size <= MOST_OF_MEMORY * memory_bytes()


def stream_layers(model: PreTrainedModel, files: Iterable[Path]) -> None:
    """Have a model's layers leave memory when they are done with.

    Args:
        model: just loaded.
        files: those that hold its weights.

    Raises:
        InputError: its weights are not in their files as the model has them.
    """
    total = sum(weight.nbytes for weight in model.parameters())
    regions = _mapped(files)
    mapped = sum(weight.nbytes for weight in model.parameters() if _lies_in(weight, regions))
    if mapped < 0.9 * total:
        raise InputError(
            f"the model cannot be streamed: {1 - mapped / total:.0%} of its weights are converted or put together when "
            "they are loaded; pass --dtype with the format that they are stored in, or leave out --stream"
        )
    temporary = tempfile.TemporaryDirectory(prefix="secateur-layers-")
    setattr(model, ATTRIBUTE, Streamed(Path(temporary.name), regions, temporary))


def streamed(model: nn.Module) -> Streamed | None:
    """Where a streamed model's changed layers go; None for a model in memory."""
    return cast("Streamed | None", getattr(model, ATTRIBUTE, None))


def keep_layers_in(model: PreTrainedModel, directory: Path) -> None:
    """Have a streamed model's changed layers written to a directory that outlives it."""
    place = streamed(model)
    assert place is not None
    setattr(model, ATTRIBUTE, Streamed(directory, place.regions))


def release(model: nn.Module, part: nn.Module | Tensor) -> None:
    """Let weights that are done with leave memory, if the model is streamed. They come back when they are touched."""
    if streamed(model) is None:
        return
    weights = [part] if isinstance(part, Tensor) else list(part.parameters())
    for weight in weights:
        start = weight.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        length = weight.data_ptr() + weight.nbytes - start
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), PAGE_OUT)


def settle(model: PreTrainedModel, index: int, layer: nn.Module) -> None:
    """Write a changed layer of a streamed model to its file, and have it mapped from there.

    Args:
        index: of the layer.
        layer: the layer.

    Raises:
        OutputError: the file cannot be written.
    """
    place = streamed(model)
    if place is None:
        return
    write_bytes(place.file(index), save({name: weight.detach().contiguous() for name, weight in _weights(layer)}))
    before = [(weight.data_ptr(), weight.nbytes) for _, weight in _weights(layer) if _lies_in(weight, place.regions)]
    map_settled(model, index, layer)
    for start, length in before:
        _forget(start, length)


def map_settled(model: PreTrainedModel, index: int, layer: nn.Module) -> None:
    """Give a layer, which has the shapes of its cut already, the weights that `settle` has written of it.

    Raises:
        InputError: the file is damaged.
    """
    place = streamed(model)
    assert place is not None
    file = place.file(index)
    stored = read_kept(file)
    for name, weight in _weights(layer):
        if name not in stored or stored[name].shape != weight.shape or stored[name].dtype != weight.dtype:
            raise damaged(file, f"it has no {name} of the cut layer")
        weight.data = stored[name]
    release(model, layer)


def read_kept(file: Path) -> dict[str, Tensor]:
    """The tensors of a file that is kept of a cut. Raises `InputError` where it is damaged."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise damaged(file, str(error)[:200]) from error


def damaged(file: Path, reason: str) -> InputError:
    """The error for a file that is kept of a cut and cannot be gone on from."""
    return InputError(f"{file} is damaged ({reason}), so the cut cannot go on; delete {file.parent} to begin anew")


def _weights(layer: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(layer.named_parameters())


def _lies_in(weight: Tensor, regions: Regions) -> bool:
    return any(start <= weight.data_ptr() < end for start, end in regions)


def _mapped(files: Iterable[Path]) -> Regions:
    """From where to where files are mapped in this process's memory."""
    names = {str(file.resolve()) for file in files}  # the hub's cache holds links
    maps: Any = psutil.Process().memory_maps(grouped=False)
    bounds = (region.addr.split("-") for region in maps if region.path in names)
    return [(int(start, 16), int(end, 16)) for start, end in bounds]


def _forget(start: int, length: int) -> None:
    """Drop the whole pages of a mapped file that nothing reads any more, with what was changed of them."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (start + length) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)


def _libc() -> Any:
    return ctypes.CDLL(None)
