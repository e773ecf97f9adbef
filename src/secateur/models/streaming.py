"""Calibration text through a model one decoder layer at a time, so that a layer can be measured and changed on the way.

The loop of every method that cuts layer by layer: the hidden states of all calibration windows stand before a layer;
statistics of its inputs are gathered; the layer is changed; its new outputs go on to the next one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.models.adapters import adapter_of

Step = Callable[[Tensor, dict[str, Any]], Tensor]


class _StopForwardError(Exception):
    """Ends a forward pass once the layers' arguments are known."""


@dataclass
class LayerStream:
    """Hidden states of calibration windows on their way through a model.

    Attributes:
        model: the model; its layers may be changed between steps.
        hidden: the residual stream before the next layer, a list of (batch, seq, hidden_size), one for each batch.
        arguments: for each layer, what its forward takes beside the hidden states (positions, masks).
        store: where the hidden states are kept between steps.
    """

    model: PreTrainedModel
    hidden: list[Tensor]
    arguments: list[dict[str, Any]]
    store: torch.device

    @classmethod
    def start(
        cls,
        model: PreTrainedModel,
        windows: Tensor,
        batch_size: int = 8,
        store: str | torch.device | None = None,
    ) -> "LayerStream":
        """Embed token windows and stand before the first layer.

        Args:
            model: a model of a supported family, in evaluation mode.
            windows: tokens, (windows, seq), without padding.
            batch_size: windows that go through a layer at once.
            store: the device that keeps the hidden states; the embedding's unless given.
        """
        embedding = model.get_input_embeddings()
        place = next(embedding.parameters()).device
        kept_on = torch.device(store) if store is not None else place
        with torch.no_grad():
            hidden = [embedding(batch.to(place)).to(kept_on) for batch in windows.split(batch_size)]
        return cls(model, hidden, layer_arguments(model, windows[:1].to(place)), kept_on)

    def fork(self) -> "LayerStream":
        """A second stream at the same place."""
        return LayerStream(self.model, list(self.hidden), self.arguments, self.store)

    @torch.no_grad()
    def map(self, index: int, step: Step) -> Iterator[Tensor]:
        """Apply `step` to each batch on the device of layer `index`.

        Args:
            index: the layer whose arguments and device are used.
            step: takes (hidden states (batch, seq, hidden_size), the layer's arguments), returns a tensor.

        Yields:
            Each batch's result, on the layer's device.
        """
        layer = adapter_of(self.model).layers(self.model)[index]
        place = next(layer.parameters()).device
        arguments = move(self.arguments[index], place)
        for batch in self.hidden:
            yield step(batch.to(place), arguments)

    def advance(self, index: int, step: Step) -> None:
        """Replace the hidden states by what `step` makes of them."""
        for position, result in enumerate(self.map(index, step)):
            self.hidden[position] = result.to(self.store)

    def attention_half(self, index: int) -> Step:
        """The step that runs layer `index`'s attention with its residual."""
        adapter = adapter_of(self.model)
        layer = adapter.layers(self.model)[index]
        return lambda hidden, arguments: adapter.attention_half(layer, hidden, arguments)

    def mlp_half(self, index: int) -> Step:
        """The step that runs layer `index`'s MLP with its residual."""
        adapter = adapter_of(self.model)
        layer = adapter.layers(self.model)[index]
        return lambda hidden, arguments: adapter.mlp_half(layer, hidden)


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

    def recorder(hidden: Tensor, **arguments: Any) -> Tensor:
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


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what goes into `module` while the block runs: a list to be emptied by the reader."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def move(value: Any, device: torch.device) -> Any:
    """Tensors inside tuples, lists and dicts moved to a device; everything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: move(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(move(item, device) for item in value)
    return value
