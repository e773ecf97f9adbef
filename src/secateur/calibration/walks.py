"""What is done of a walk through the layers, kept on the disk, so that a walk that was stopped goes on at its layer."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from secateur.calibration.streaming import LayerStream
from secateur.files import reported, write_bytes, write_json
from secateur.files.json_text import read_json
from secateur.models.streamed import damaged, read_kept

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

    def value(self, name: str, compute: Callable[[], Any], fits: Callable[[Any], bool]) -> Any:
        """A JSON value that was computed before, or is now.

        Args:
            name: of the value.
            compute: computes it.
            fits: whether a JSON value can be it.

        Raises:
            InputError: its file is damaged.
        """
        if self.directory is None:
            return compute()
        file = self.directory / f"walk-{name}.json"
        if not file.is_file():
            write_json(file, compute())
        value = read_json(file, "is damaged", advice=f"; delete {file.parent} to begin anew")
        if not fits(value):
            raise damaged(file, "it is of something else")
        return value

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
        kept = read_kept(file)
        for name, stream in streams.items():
            for number, before in enumerate(stream.hidden):
                batch = kept.get(f"{name}.{number}")
                if batch is None or batch.shape != before.shape or batch.dtype != before.dtype:
                    raise damaged(file, f"it has no {name}.{number} as the windows need it")
                stream.hidden[number] = batch
                if stream.shared:
                    stream.shared[number].update(_shared_of(kept, f"{name}.{number}."))
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
        for name, stream in streams.items():
            for number, states in enumerate(stream.shared):
                for kind, pair in states.items():
                    for place, state in enumerate(pair):
                        hidden[f"{name}.{number}.{kind}.{place}"] = state.contiguous().clone()
        write_bytes(self.directory / f"walk-{walk}-before-{index + 1:04}.safetensors", save(hidden))
        if before is not None:
            with reported(before):
                before.unlink()

    def keep(self, walk: str, index: int, found: Mapping[str, Tensor]) -> None:
        """Keep what was found in a layer, before it is `done`."""
        if self.directory is not None:
            stored = {name: tensor.contiguous() for name, tensor in found.items()}
            write_bytes(self._found(walk, index), save(stored))

    def found(
        self, walk: str, index: int, names: Collection[str], fits: Callable[[Mapping[str, Tensor]], bool]
    ) -> dict[str, Tensor]:
        """What was found in a layer that is done.

        Args:
            walk: its name.
            index: the layer.
            names: of the tensors.
            fits: whether such tensors can be of that layer.

        Raises:
            InputError: the file is damaged.
        """
        file = self._found(walk, index)
        kept = read_kept(file)
        missing = sorted(set(names) - kept.keys())
        if missing:
            raise damaged(file, f"it lacks {missing[0]}")
        if not fits(kept):
            raise damaged(file, "it is of something else")
        return kept

    def _found(self, walk: str, index: int) -> Path:
        assert self.directory is not None
        return self.directory / f"walk-{walk}-{index:04}.safetensors"

    def _hidden(self, walk: str) -> Path | None:
        """The hidden states before the farthest layer; those before others are what a kill has left."""
        found = [] if self.directory is None else self.directory.glob(f"walk-{walk}-before-*.safetensors")
        return max(found, key=_layer, default=None)


NOTHING_KEPT = Walks()


def _shared_of(kept: Mapping[str, Tensor], prefix: str) -> dict[str, tuple[Tensor, ...]]:
    """Keys and values by kind of layer, of those kept under names that begin so."""
    kinds = {name.removeprefix(prefix).rpartition(".")[0] for name in kept if name.startswith(prefix)}
    return {kind: (kept[f"{prefix}{kind}.0"], kept[f"{prefix}{kind}.1"]) for kind in kinds}


def _layer(file: Path) -> int:
    number = file.stem.rpartition("-")[2]
    if not number.isdecimal():
        raise damaged(file, "its name has no layer")
    return int(number)
