"""What is done of a walk through the layers, kept on the disk, so that a walk that was stopped goes on at its layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from secateur.calibration.streaming import LayerStream
from secateur.errors import InputError
from secateur.files import reported, write_bytes, write_json
from secateur.files.json_text import read_json

KEPT = "walk-*"  # the names of all that is kept
Streams = Mapping[str, LayerStream]


@dataclass(frozen=True)
class Walks:
    """Walks through the layers of one model.

    Each layer leaves what was found in it; and beside that the hidden states that stand before the next one.

    Attributes:
        directory: where that is kept; None to keep nothing, so that every walk begins at the first layer.
    """

    directory: Path | None = None

    @property
    def begun(self) -> bool:
        return self.directory is not None and next(self.directory.glob(KEPT), None) is not None

    def value(self, name: str, compute: Callable[[], Any]) -> Any:
        """A JSON value that was computed before, or is now. Raises `InputError` where its file is damaged."""
        if self.directory is None:
            return compute()
        file = self.directory / f"walk-{name}.json"
        if not file.is_file():
            write_json(file, compute())
        return read_json(file, "is damaged", advice=f"; delete {file.parent} to begin anew")

    def reached(self, walk: str) -> int:
        """The first layer that is not done."""
        file = self._hidden(walk)
        return 0 if file is None else _layer(file)

    def begin(self, walk: str, streams: Streams) -> int:
        """Put streams before the first layer that is not done, and say which that is.

        Raises:
            InputError: what was kept is damaged.
        """
        file = self._hidden(walk)
        if file is None:
            return 0
        hidden = _read(file)
        for name, stream in streams.items():
            batches = range(len(stream.hidden))
            try:
                stream.replace(hidden[f"{name}.{number}"] for number in batches)
            except KeyError as error:
                raise _damaged(file, f"it lacks {error}") from error
        return _layer(file)

    def done(self, walk: str, index: int, streams: Streams) -> None:
        """Note that layer `index` is done, with the hidden states before the next one."""
        if self.directory is None:
            return
        before = self._hidden(walk)
        hidden = {
            f"{name}.{number}": batch.clone()  # streams may share what they have not parted over
            for name, stream in streams.items()
            for number, batch in enumerate(stream.hidden)
        }
        write_bytes(self.directory / f"walk-{walk}-before-{index + 1:04}.safetensors", save(hidden))
        if before is not None:
            with reported(before):
                before.unlink()

    def keep(self, walk: str, index: int, found: Mapping[str, Tensor]) -> None:
        """Keep what was found in a layer, before it is `done`."""
        if self.directory is not None:
            stored = {name: tensor.contiguous() for name, tensor in found.items()}
            write_bytes(self._found(walk, index), save(stored))

    def found(self, walk: str, index: int) -> dict[str, Tensor]:
        """What was found in a layer that is done. Raises `InputError` where it is damaged."""
        return _read(self._found(walk, index))

    def _found(self, walk: str, index: int) -> Path:
        assert self.directory is not None
        return self.directory / f"walk-{walk}-{index:04}.safetensors"

    def _hidden(self, walk: str) -> Path | None:
        """The hidden states before the farthest layer; those before others are what a kill has left."""
        found = [] if self.directory is None else self.directory.glob(f"walk-{walk}-before-*.safetensors")
        return max(found, key=_layer, default=None)


NOTHING_KEPT = Walks()


def _layer(file: Path) -> int:
    number = file.stem.rpartition("-")[2]
    if not number.isdecimal():
        raise _damaged(file, "its name has no layer")
    return int(number)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise _damaged(file, str(error)[:200]) from error


def _damaged(file: Path, reason: str) -> InputError:
    return InputError(f"{file} is damaged ({reason}), so the cut cannot go on; delete {file.parent} to begin anew")
