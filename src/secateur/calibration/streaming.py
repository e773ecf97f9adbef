"""Calibration text through a model one decoder layer at a time, so that a layer can be measured and changed on the way.

The loop of every method that cuts layer by layer: the hidden states of all calibration windows stand before a layer;
statistics of its inputs are gathered; the layer is changed; its new outputs go on to the next one.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import KVSharingDict

from secateur.distributed import process_count
from secateur.errors import InputError
from secateur.files import reported
from secateur.models.adapters import adapter_of
from secateur.models.halves import PARTS, Half, Part

Step = Callable[[Tensor, dict[str, Any]], Tensor]


Offload = Literal["none", "cpu", "disk"]
# The argument of layers that pass keys and values on, in Transformers.
SHARED = "shared_kv_states"


class _StopForwardError(Exception):
    """Ends a forward pass once the layers' arguments are known."""


class _ReachedError(Exception):
    """Ends a forward pass at a module, with what goes into it."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs


class DiskTensors(MutableSequence[Tensor]):
    """A list of tensors, each in a file of a temporary directory that goes when the list does."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="secateur-activations-")
        self._files: list[Path] = []
        self._written = 0
        self.extend(tensors)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        return load_file(self._files[index])["tensor"]

    def __setitem__(self, index: Any, tensor: Any) -> None:
        old, self._files[index] = self._files[index], self._write(tensor)
        old.unlink()

    def __delitem__(self, index: Any) -> None:
        self._files.pop(index).unlink()

    def insert(self, index: int, value: Tensor) -> None:
        self._files.insert(index, self._write(value))

    def _write(self, tensor: Tensor) -> Path:
        self._written += 1
        file = Path(self._directory.name) / f"{self._written}.safetensors"
        with reported(file):
            save_file({"tensor": tensor.cpu().contiguous()}, file)
        return file


@dataclass
class LayerStream:
    """Hidden states of calibration windows on their way through a model.

    Attributes:
        model: the model; its layers may be changed between steps.
        hidden: the residual stream before the next layer, a list of (batch, seq, hidden_size), one for each batch.
        arguments: for each layer, what its forward takes beside the hidden states (positions, masks).
        store: the device that keeps activations between steps; None for the disk.
        given: a layer, and the residual stream before it, where `hidden` stands behind its first half and the second
            one reads that as well.
        tokens: of each batch, (batch, seq).
        shared: for each batch, the keys and values that later layers use too, by kind of layer.
    """

    model: PreTrainedModel
    hidden: MutableSequence[Tensor]
    arguments: list[dict[str, Any]]
    store: torch.device | None
    given: tuple[nn.Module, MutableSequence[Tensor]] | None = None
    tokens: Sequence[Tensor] = ()
    shared: list[KVSharingDict] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        model: PreTrainedModel,
        windows: Tensor,
        batch_size: int = 8,
        offload: Offload = "none",
    ) -> "LayerStream":
        """Embed token windows and stand before the first layer.

        Args:
            model: a model of a supported family, in evaluation mode.
            windows: tokens, (windows, seq), without padding.
            batch_size: windows that go through a layer at once.
            offload: where activations are kept: `none`, on the embedding's device.

        Raises:
            InputError: there is no window: fewer than processes that share them.
        """
        if not len(windows):
            raise InputError(
                f"{process_count()} processes have fewer windows of text than one each; start fewer, or give more "
                "--windows (for the layers' importance --layer-importance-windows, for a search's measuring "
                "--measured-windows)"
            )
        embedding = model.get_input_embeddings()
        place = next(embedding.parameters()).device
        store = {"none": place, "cpu": torch.device("cpu"), "disk": None}[offload]
        stream = cls(model, [], layer_arguments(model, windows[:1].to(place)), store)
        with torch.no_grad():
            adapter = adapter_of(model)
            stream.tokens = windows.split(batch_size)
            stream.hidden = stream.stored(adapter.embed(model, batch.to(place)) for batch in stream.tokens)
            stream.shared = [KVSharingDict() for _ in stream.tokens]
        return stream

    def fork(self) -> "LayerStream":
        """A second stream at the same place."""
        given = self.given and (self.given[0], self.stored(self.given[1]))
        shared = [KVSharingDict(states) for states in self.shared]
        return LayerStream(self.model, self.stored(self.hidden), self.arguments, self.store, given, self.tokens, shared)

    def follow(self, other: "LayerStream") -> None:
        """Stand where another stream of the same windows stands."""
        self.replace(other.hidden)
        self.given = other.given and (other.given[0], self.stored(other.given[1]))
        self.shared = [KVSharingDict(states) for states in other.shared]

    def stored(self, batches: Iterable[Tensor]) -> MutableSequence[Tensor]:
        """The batches where this stream keeps its activations."""
        return DiskTensors(batches) if self.store is None else [batch.to(self.store) for batch in batches]

    def read_by(self, half: Half) -> MutableSequence[Tensor]:
        """The residual stream that the next half reads: this one, or in a parallel block what the layer was given."""
        if half.is_parallel and self.given is not None and self.given[0] is half.layer:
            return self.given[1]
        return self.hidden

    def mixed(self, index: int, half: Half) -> Iterator[Tensor]:
        """What the output projection of a half of layer `index` gives, (batch, seq, hidden_size) each."""
        return self._map(index, half, half.mixed)

    @torch.no_grad()
    def _map(self, index: int, half: Half, step: Step) -> Iterator[Tensor]:
        """Apply `step` to each batch of what a half reads, and to its layer's arguments, on its layer's device."""
        place = device_of(half.layer, self.hidden)
        arguments = move(self.arguments[index], place)
        for number, batch in enumerate(self.read_by(half)):
            yield step(batch.to(place), {**arguments, **self._of_batch(index, number, arguments, place)})

    def _of_batch(self, index: int, number: int, arguments: Mapping[str, Any], place: torch.device) -> dict[str, Any]:
        """What a layer is given that differs from batch to batch."""
        adapter = adapter_of(self.model)
        found: dict[str, Any] = {}
        if SHARED in arguments:
            found[SHARED] = self.shared[number].to(place)
        if adapter.of_tokens is not None:
            body = adapter.body(self.model)
            embeddings: nn.Module = self.model.get_input_embeddings()
            tokens = self.tokens[number].to(next(embeddings.parameters()).device)
            found |= move(adapter.of_tokens(body, tokens, index), place)
        return found

    @torch.no_grad()
    def end_layer(self, index: int) -> None:
        """Go from behind layer `index`'s last half to the next layer: in most families nothing lies between."""
        adapter = adapter_of(self.model)
        if adapter.end is not None:
            layer = adapter.layers(self.model)[index]
            place = device_of(layer, self.hidden)
            arguments = move(self.arguments[index], place)
            given = ({**arguments, **self._of_batch(index, number, arguments, place)} for number in count())
            self.replace(
                adapter.end(layer, hidden.to(place), of_batch)
                for hidden, of_batch in zip(self.hidden, given, strict=False)
            )

    def pass_through(self, index: int, without: Part | None = None) -> None:
        """Go on to the next layer, through the halves of layer `index`, or through all but one of them."""
        for half in self.halves(index):
            if half.part == without:
                self._share_keys(index, half)
            else:
                self.run(index, half)
        self.end_layer(index)

    def leave_out(self, index: int) -> None:
        """Go past layer `index` as if it were not there, but for keys and values that later layers use."""
        self._share_keys(index, self.half(index, "attention"))

    def _share_keys(self, index: int, half: Half) -> None:
        """Leave what later layers use of an attention that is left out."""
        if half.part == "attention" and SHARED in self.arguments[index]:
            for _ in self.mixed(index, half):
                pass

    def inputs(self, index: int, half: Half, module: nn.Module) -> Iterator[Tensor]:
        """What goes into a module of a half of layer `index` when that is run, batch by batch. It is run as far."""

        def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise _ReachedError(inputs[0])

        def until(hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
            handle = module.register_forward_pre_hook(stop)
            try:
                return half.mixed(hidden, arguments)
            except _ReachedError as reached:
                return reached.inputs
            finally:
                handle.remove()

        return self._map(index, half, until)

    def run(self, index: int, half: Half) -> None:
        """Go on through a half of layer `index`."""
        if not half.is_absent:
            self.end(half, self.mixed(index, half))

    def add(self, half: Half, inputs: Iterable[Tensor]) -> None:
        """End a half: what its output projection makes of its inputs, (batch, seq, in_features) each, is added."""
        place = half.output.weight.device
        self.end(half, (half.output(batch.to(place)) for batch in inputs))

    @torch.no_grad()
    def end(self, half: Half, mixed: Iterable[Tensor]) -> None:
        """End a half: what its output projection gives, (batch, seq, hidden_size) each, is added."""
        place, given = half.output.weight.device, None
        if self._is_read_again(half):
            given = half.layer, self.stored(self.hidden)
        self.replace(
            half.add(hidden.to(place), output.to(place)) for hidden, output in zip(self.hidden, mixed, strict=True)
        )
        self.given = given

    def _is_read_again(self, half: Half) -> bool:
        """Whether a later half of its layer reads what this one reads."""
        later = PARTS[PARTS.index(half.part) + 1 :]
        halves = (adapter_of(self.model).half(half.layer, part) for part in later)
        return any(other.is_parallel and not other.is_absent for other in halves)

    def replace(self, batches: Iterable[Tensor]) -> None:
        """Put these in place of the hidden states, one by one."""
        for position, batch in enumerate(batches):
            self.hidden[position] = batch if self.store is None else batch.to(self.store)

    def half(self, index: int, part: Part) -> Half:
        """Layer `index`'s attention or MLP."""
        adapter = adapter_of(self.model)
        return adapter.half(adapter.layers(self.model)[index], part)

    def halves(self, index: int) -> list[Half]:
        """Layer `index`'s attention and its MLP, of those that it has."""
        halves = [self.half(index, part) for part in PARTS]
        return [half for half in halves if not half.is_absent]


@torch.no_grad()
def layer_arguments(model: PreTrainedModel, window: Tensor) -> list[dict[str, Any]]:
    """What the model's body hands to each of its layers for one window.

    The body is run with every layer skipped, so this costs next to nothing and holds for any family: masks of
    sliding-window layers come out as they should.

    Args:
        model: a model of a supported family.
        window: tokens, (1, seq).
    """
    adapter = adapter_of(model)
    layers = adapter.layers(model)
    recorded: list[dict[str, Any]] = []

    def recorder(hidden: Tensor, *of_layer: Any, **arguments: Any) -> Tensor:
        recorded.append({key: value for key, value in arguments.items() if key != "past_key_values"})
        if len(recorded) == len(layers):
            raise _StopForwardError
        return hidden

    replaced = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = recorder
        adapter.body(model)(window, use_cache=False)
    except _StopForwardError:
        return recorded
    finally:
        for layer, forward in zip(layers, replaced, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward
    return recorded


def device_of(layer: nn.Module, hidden: Sequence[Tensor]) -> torch.device:
    """Where a layer's weights are; where the hidden states are, for one without any."""
    weight = next(layer.parameters(), None)
    return hidden[0].device if weight is None else weight.device


def onto(batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Batches from wherever they are kept, one by one on the device that computes with them."""
    return (batch.to(device) for batch in batches)


def move(value: Any, device: torch.device) -> Any:
    """Tensors inside tuples, lists and dicts moved to a device; everything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: move(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(move(item, device) for item in value)
    return value
