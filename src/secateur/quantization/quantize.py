"""Weights of few bits, from a configuration to a model whose projections stand on a grid."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.calibration.moments import solvable
from secateur.calibration.streaming import LayerStream
from secateur.calibration.targets import advance_with_outputs
from secateur.calibration.walks import NOTHING_KEPT, Walks
from secateur.calibration.windows import calibrate
from secateur.console import track
from secateur.distributed import share
from secateur.errors import InputError
from secateur.files.result_files import QUANTIZATION
from secateur.handover.memory import note_done
from secateur.models.adapters import adapter_of
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.context import require_length
from secateur.models.memory import peak_memory, timed
from secateur.models.modes import in_eval_mode
from secateur.models.options import configured, takes_options
from secateur.models.rounded import packed_bytes, rounded_of
from secateur.models.streamed import map_settled, release, settle
from secateur.quantization.config import QuantizeConfig
from secateur.quantization.options import QuantizeOptions
from secateur.rounding.config import Rounding, require_group, require_groups
from secateur.rounding.halves import round_first, round_half, uncut_inputs
from secateur.rounding.kept import note_kept_scales, scales_of
from secateur.showing import Shown

WALK = "round"
HEAD = "lm_head"


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix of rounded weights.

    Attributes:
        layer: index of its layer; None for the head.
        name: q_proj, down_proj and so on.
        shape: (out_features, in_features).
        bits: of a weight.
        group: neighbouring weights of a row that share a scale.
        bytes: on disk, with the scales.
    """

    layer: int | None
    name: str
    shape: tuple[int, int]
    bits: int
    group: int
    bytes: int


@dataclass(repr=False)
class QuantizeResult(Shown):
    """What rounding did.

    Attributes:
        matrices: each matrix that was rounded.
        bytes_before: what the model's weights took on disk.
        bytes_after: what they take now, embeddings and scales included.
        calibration: the text, in words.
        calibration_source: the identity of its source.
        calibration_windows: how many windows of `settings["seqlen"]` tokens.
        settings: the configuration.
        seconds: time by phase.
        peak_memory_bytes: the most memory used: of the GPU, or of the process on a CPU.
    """

    matrices: list[QuantizedMatrix]
    bytes_before: int
    bytes_after: int
    calibration: str
    calibration_source: str
    calibration_windows: int
    settings: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    def headline(self) -> str:
        return (
            f"{len(self.matrices)} matrices of {self.settings['bits']} bits, {self.bytes_before / 1e6:,.1f} MB became "
            f"{self.bytes_after / 1e6:,.1f} MB, {sum(self.seconds.values()):.1f} s"
        )

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [asdict(matrix) for matrix in self.matrices]

    def files(self) -> dict[str, Any]:
        """What the command writes beside the weights, for `extras` of `secateur.save`."""
        return {QUANTIZATION: self.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """The content of `quantization.json`."""
        return {name: value for name, value in asdict(self).items() if name not in ("seconds", "peak_memory_bytes")}


@takes_options(QuantizeConfig)
@in_eval_mode
def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: QuantizeConfig | None = None,
    *,
    walks: Walks = NOTHING_KEPT,
    **options: Unpack[QuantizeOptions],
) -> QuantizeResult:
    """Round the weights of a model's projections to 4 or 8 bits, in place.

    The model stays an ordinary one in memory, whose weights are level · scale. Where it is saved, they are packed.

    Args:
        model: a causal language model of a supported family.
        tokenizer: its tokenizer.
        config: how.
        walks: what an earlier try with the same model and settings has done, of a model that is streamed.
        options: fields of `QuantizeConfig`, instead of `config` or over it: `quantize(model, tokenizer, bits=8)`.

    Raises:
        InputError: the options do not fit the model, or it is rounded already.
        DataError: the calibration text cannot be used.
        ModelError: the model's family is not supported, or a weight is NaN or infinite.
    """
    config = configured(QuantizeConfig, config, options)
    require_in_memory(model)
    require_finite(model, "the model")
    require_length(model, config.seqlen)
    layers = config.layer_range(len(adapter_of(model).layers(model)))
    require_groups(model, config.group, layers)
    if config.quantize_head:
        _require_head(model, config)
    rounding = Rounding.of(model, config.bits, config.group, config.damping)
    before = _bytes(model, rounding.dtype)
    seconds: dict[str, float] = {}
    with peak_memory(model) as memory:
        with timed(seconds, "calibration text"):
            calibration = calibrate(model, tokenizer, config)
        with timed(seconds, "rounding"), solvable(config.damping):
            _round(model, calibration.windows, config, rounding, layers, walks)
    result = QuantizeResult(
        matrices=_described(model),
        bytes_before=before,
        bytes_after=_bytes(model, rounding.dtype),
        calibration=calibration.description,
        calibration_source=calibration.corpus.source,
        calibration_windows=len(calibration.windows),
        settings=config.model_dump(),
        seconds=seconds,
        peak_memory_bytes=memory.bytes,
    )
    note_done(model, "quantize", result.to_dict(), config)
    return result


@torch.no_grad()
def _round(
    model: PreTrainedModel, windows: Tensor, config: QuantizeConfig, rounding: Rounding, layers: range, walks: Walks
) -> None:
    """Round layer by layer, each on what the rounded ones before it give, towards what the uncut model gives.

    Two streams of the calibration text go through the layers side by side. First projections are fitted to the uncut
    ones' outputs; output projections so that the rounded stream comes back to the uncut one.
    """
    adapter = adapter_of(model)
    uncut = LayerStream.start(model, share(windows), config.batch_size, config.offload)
    cut = uncut.fork()
    streams = {"cut": cut, "uncut": uncut}
    begin = walks.begin(WALK, streams)
    for index in range(begin):
        if index in layers:
            map_settled(model, index, adapter.layers(model)[index])
            note_kept_scales(walks, WALK, model, index, rounding)
    last = len(adapter.layers(model)) if config.quantize_head else layers.stop
    for index, layer in track(list(enumerate(adapter.layers(model)))[begin:last], "Rounding"):
        for half in cut.halves(index):
            if index not in layers:
                uncut.run(index, half)
                cut.follow(uncut) if index < layers.start else cut.run(index, half)
                continue
            given = uncut_inputs(uncut, index, half)
            mixed = advance_with_outputs(uncut, index, half)
            cut.add(half, round_half(cut, index, half, given, uncut.hidden, mixed, rounding))
        for stream in streams.values():
            stream.end_layer(index)
        if index in layers:
            settle(model, index, layer)
            walks.keep(WALK, index, scales_of(model, index))
        else:
            release(model, layer)
        walks.done(WALK, index, streams)
    if config.quantize_head:
        _round_head(model, streams, rounding)


def _round_head(model: PreTrainedModel, streams: Mapping[str, LayerStream], rounding: Rounding) -> None:
    head = cast(nn.Linear, model.get_output_embeddings())
    norm, place = adapter_of(model).final_norm(model), head.weight.device
    rounded, uncut = ((norm(batch.to(place)) for batch in streams[name].hidden) for name in ("cut", "uncut"))
    round_first([head], rounded, uncut, rounding)


def _require_head(model: PreTrainedModel, config: QuantizeConfig) -> None:
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is embeddings.weight:
        raise InputError(
            "--quantize-head: the output embeddings are tied to the input embeddings, which stay as they are; leave it "
            "out"
        )
    require_group(HEAD, cast(nn.Linear, head), config.group)


def _described(model: PreTrainedModel) -> list[QuantizedMatrix]:
    found = []
    places: list[tuple[int | None, str, nn.Module]] = [
        (index, name, linear)
        for index, layer in enumerate(adapter_of(model).layers(model))
        for name, linear in adapter_of(model).projections(layer).items()
    ]
    for index, name, linear in [*places, (None, HEAD, model.get_output_embeddings())]:
        note = rounded_of(linear)
        if note is not None:
            shape = (cast(nn.Linear, linear).out_features, cast(nn.Linear, linear).in_features)
            found.append(QuantizedMatrix(index, name, shape, note.bits, note.group, packed_bytes(shape, note)))
    return found


def _bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """What a model's weights take on disk."""
    notes = {id(module.weight): rounded_of(module) for module in model.modules() if isinstance(module, nn.Linear)}
    size = 0
    for weight in model.parameters():
        note = notes.get(id(weight))
        width = dtype.itemsize if weight.is_floating_point() else weight.element_size()
        size += weight.numel() * width if note is None else packed_bytes(tuple(weight.shape), note)
    return size
