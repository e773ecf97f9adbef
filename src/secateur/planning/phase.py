"""One phase of a command: how much it computes and holds, before it is known how it is laid out over devices."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from secateur.calibration.losses import CHUNK_TOKENS
from secateur.planning.config import PlanConfig
from secateur.planning.shape import LayerShape, ModelShape
from secateur.planning.work import Work


@dataclass(frozen=True)
class Sharding:
    """What a training holds and sends under `--fsdp`.

    Attributes:
        divided: bytes that the processes share.
        whole: bytes that each of them holds beside its part.
        gathered: bytes of the groups of weights that stand together at once.
        loaded: bytes of the models before they are spread.
        sent: bytes that each process sends to the others.
    """

    divided: float
    whole: float
    gathered: float
    loaded: float
    sent: float


@dataclass(frozen=True)
class Phase:
    """One phase, as one of several processes sees it.

    Attributes:
        name: the command, and what of it.
        work: what this process does.
        sent: bytes that it sends to the others.
        weights: bytes of weights and of what belongs to them one to one (gradients, optimizer), with a whole copy.
        streams: bytes of the activations of this process's calibration windows.
        activations: bytes that layers keep for the backward pass; --device-map spreads them with the layers.
        workspace: bytes of everything else.
        options: what the command needs to be given for this.
        layered: bytes of the largest layer, where the command can bring one layer at a time to its device.
        sharding: how `--fsdp` lays it out, where it can.
    """

    name: str
    work: Work
    sent: float = 0.0
    weights: float = 0.0
    streams: float = 0.0
    activations: float = 0.0
    workspace: float = 0.0
    options: str = ""
    layered: float | None = None
    sharding: Sharding | None = None


@dataclass(frozen=True)
class Setting:
    """A model, what is to be done, and the number format.

    Attributes:
        shape: the model.
        config: the plan's settings.
        width: bytes of a number.
        on_cpu: whether the device is a CPU.
        processes: how many work together, each with a device of its own.
    """

    shape: ModelShape
    config: PlanConfig
    width: int
    on_cpu: bool
    processes: int = 1

    @property
    def weights(self) -> float:
        """Bytes of the model."""
        return self.shape.parameters * self.width

    @property
    def largest_layer(self) -> float:
        """Bytes of the widest layer."""
        return self.shape.largest_layer * self.width

    @property
    def calibration_tokens(self) -> int:
        """Tokens of this process's calibration windows."""
        return math.ceil(self.config.windows / self.processes) * self.config.seqlen

    def few_tokens(self, windows: int) -> int:
        """Tokens of this process's share of a few of the calibration windows."""
        return math.ceil(min(windows, self.config.windows) / self.processes) * self.config.seqlen

    @property
    def batch_tokens(self) -> int:
        """Tokens that go through the model at once while calibrating and measuring."""
        return self.config.batch_size * self.config.seqlen

    def forward(self, tokens: float) -> Work:
        """Tokens' way through all layers, without the head."""
        return Work(products=tokens * self.shape.body_flops(self.config.seqlen))

    def halves(self) -> Iterator[tuple[int, int, int]]:
        """Of each layer's attention and MLP: inputs of its output projection, inputs of a unit, units."""
        for layer in self.shape.layers:
            for half in layer.halves:
                yield half.width, half.width // half.units, half.units

    @property
    def widest_half(self) -> int:
        """The most inputs that an output projection has."""
        return max(n for n, _, _ in self.halves())

    def layer_forward(self, tokens: float) -> float:
        """Bytes that a layer's forward pass holds at most: of a gated MLP inputs, gate, up and their product."""
        widest = max(layer.mlp.input_rows + layer.mlp.width for layer in self.shape.layers)
        mixing = max(layer.mixing.held(self.config.seqlen, self.width) for layer in self.shape.layers)
        return tokens * (self.width * (widest + 4 * self.shape.hidden_size) + mixing)

    def layer_activations(self, tokens: float) -> float:
        """Bytes that a layer without trained weights keeps for its backward pass."""
        widths = [self.width * numbers for numbers in (4, 2, 2, 3, 2)]
        return tokens * max(self.kept_by_token(layer, *widths) for layer in self.shape.layers)

    def kept_by_token(
        self, layer: LayerShape, hidden: float, query: float, key: float, channel: float, normed: float
    ) -> float:
        """So many bytes for each number of each width of a layer, and what attention keeps between its projections.

        Args:
            layer: the layer.
            hidden: of the residual stream.
            query: of the queries.
            key: of the keys; what else the input projections of attention give counts as keys and values.
            channel: of a gated MLP's channels; one without gates keeps half.
            normed: of what is normed beside the residual stream before attention and MLP.
        """
        attention, mlp = layer.attention, layer.mlp
        return (
            hidden * self.shape.hidden_size
            + query * attention.width
            + key * (attention.input_rows - attention.width) / 2
            + channel * mlp.input_rows / 2
            + normed * layer.more_normed
            + layer.mixing.held(self.config.seqlen, self.width)
        )

    @property
    def scored_logits(self) -> float:
        """Bytes of the logits of a chunk of tokens, in the model's format and in float32, with their gradient."""
        return CHUNK_TOKENS * self.shape.vocab_size * (2 * self.width + 3 * 4)
