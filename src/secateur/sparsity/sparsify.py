"""Weight sparsity from a configuration to a model with zeros and the record of where they are."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.calibration.moments import solvable
from secateur.calibration.streaming import LayerStream
from secateur.calibration.walks import NOTHING_KEPT, Walks
from secateur.calibration.windows import Calibration, calibrate
from secateur.distributed import share
from secateur.errors import InputError
from secateur.handover.memory import note_done
from secateur.models.adapters import adapter_of
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.context import require_length
from secateur.models.memory import peak_memory, timed
from secateur.models.modes import in_eval_mode
from secateur.models.options import LOADING, configured, takes_options
from secateur.models.rounded import refuse_rounded
from secateur.models.streamed import release, streamed
from secateur.models.zeros_record import remember_zeros
from secateur.rounding.config import require_groups
from secateur.showing import Drawn
from secateur.sparsity.config import SparsifyConfig
from secateur.sparsity.cutting import cut_by_magnitude, cut_refitting, cut_streamed
from secateur.sparsity.fisher import fisher_shares
from secateur.sparsity.matrices import Matrix, cut_matrices, quotas
from secateur.sparsity.options import SparsifyOptions
from secateur.sparsity.owl import layer_sparsities, outlier_shares
from secateur.sparsity.quota import Quota

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FISHER_WINDOWS = 8


@dataclass(frozen=True)
class CutMatrix:
    """A matrix with zeros.

    Attributes:
        layer: index of its layer.
        name: q_proj, down_proj and so on.
        shape: (out_features, in_features).
        zeros: how many of its weights are zero.
        sparsity: their share.
        pattern: N:M, or None.
        norm_lost: of its squared norm before the cut, the share in weights that became zero.
    """

    layer: int
    name: str
    shape: tuple[int, int]
    zeros: int
    sparsity: float
    pattern: str | None
    norm_lost: float | None = None


@dataclass(repr=False)
class SparsifyResult(Drawn):
    """What a cut did.

    Attributes:
        matrices: each matrix that was cut.
        asked: share of their weights that was to become zero.
        calibration: the text, in words; empty where none was used.
        calibration_source: the identity of its source.
        calibration_windows: how many windows of `settings["seqlen"]` tokens.
        settings: the configuration.
        seconds: time by phase.
        peak_memory_bytes: the most memory used: of the GPU, or of the process on a CPU.
    """

    matrices: list[CutMatrix]
    asked: float
    calibration: str
    calibration_source: str
    calibration_windows: int
    settings: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    @property
    def zeros(self) -> int:
        """How many weights of all cut matrices are zero."""
        return sum(matrix.zeros for matrix in self.matrices)

    @property
    def reached(self) -> float:
        """Their share."""
        return self.zeros / sum(math.prod(matrix.shape) for matrix in self.matrices)

    def headline(self) -> str:
        return (
            f"{self.zeros:,} zeros, {self.reached:.1%} of {len(self.matrices)} matrices, "
            f"{sum(self.seconds.values()):.1f} s"
        )

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [asdict(matrix) for matrix in self.matrices]

    def plot(self) -> "Figure":
        from secateur.report import figure_of, sparsity_map

        return figure_of(sparsity_map, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The content of `sparsity.json`."""
        own = {name: value for name, value in asdict(self).items() if name not in ("seconds", "peak_memory_bytes")}
        return {**own, "zeros": self.zeros, "reached": self.reached}


@takes_options(SparsifyConfig, hidden=LOADING - {"device"})
@in_eval_mode
def sparsify(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: SparsifyConfig | None = None,
    *,
    walks: Walks = NOTHING_KEPT,
    **options: Unpack[SparsifyOptions],
) -> SparsifyResult:
    """Set single weights of a model's projections to zero, in place.

    Args:
        model: a causal language model of a supported family.
        tokenizer: its tokenizer; None will do where the data is tokens.
        config: what to cut.
        walks: what an earlier try with the same model and settings has done, of a model that is streamed.
        options: fields of `SparsifyConfig`, instead of `config` or over it: `sparsify(model, tokenizer, sparsity=0.6)`.

    Raises:
        InputError: the options do not fit the model.
        DataError: the calibration text cannot be used.
        ModelError: the model's family is not supported, or a weight is NaN or infinite.
    """
    config = configured(SparsifyConfig, config, options)
    require_in_memory(model)
    require_finite(model, "the model")
    refuse_rounded(model, "make zeros in the model that they came from, with --quantize")
    if streamed(model) and config.spread == "fisher":
        raise InputError(
            "--allocation fisher holds what a pass through all layers leaves; for a streamed model use uniform or owl"
        )
    matrices = cut_matrices(model, config)
    planned = quotas(matrices, config)
    rounding = config.rounding(model)
    if rounding is not None:
        require_groups(model, rounding.group)
    seconds: dict[str, float] = {}
    calibration = None
    with peak_memory(model) as memory:
        if config.needs_text:
            require_length(model, config.seqlen)
            with timed(seconds, "calibration text"):
                calibration = calibrate(model, tokenizer, config)
        if config.spread != "uniform" and calibration is not None:
            with timed(seconds, "allocation"):
                planned = _allocated(model, matrices, calibration, config)
        with timed(seconds, "cut"), solvable(config.ridge):
            chosen = dict(zip((matrix.linear for matrix in matrices), planned, strict=True))
            if calibration is None or config.method == "magnitude":
                lost = cut_by_magnitude(model, chosen)
            else:
                stream = LayerStream.start(model, share(calibration.windows), config.batch_size, config.offload)
                if config.method == "admm":
                    every = {**_without_zeros(model), **chosen} if rounding is not None else chosen
                    lost = cut_refitting(stream, every, config, walks, rounding)
                else:
                    lost = cut_streamed(stream, chosen, config, walks)
    result = SparsifyResult(
        matrices=[_described(model, matrix, config.pattern, lost.get(matrix.linear)) for matrix in matrices],
        asked=config.share,
        calibration=calibration.description if calibration else "",
        calibration_source=calibration.corpus.source if calibration else "",
        calibration_windows=len(calibration.windows) if calibration else 0,
        settings=config.model_dump(),
        seconds=seconds,
        peak_memory_bytes=memory.bytes,
    )
    remember_zeros(model, result.to_dict())
    note_done(model, "sparsify", result.to_dict(), config)
    return result


def _without_zeros(model: PreTrainedModel) -> dict[nn.Linear, Quota]:
    """Every projection, with no zeros to be made."""
    adapter = adapter_of(model)
    linears = [linear for layer in adapter.layers(model) for linear in adapter.projections(layer).values()]
    return {linear: Quota(linear.out_features, linear.in_features, 0, per_row=True) for linear in linears}


def _allocated(
    model: PreTrainedModel, matrices: Sequence[Matrix], calibration: Calibration, config: SparsifyConfig
) -> list[Quota]:
    """Zeros of each matrix, by owl the same share within a layer."""
    if config.spread == "fisher":
        few = calibration.windows[:: max(1, len(calibration.windows) // FISHER_WINDOWS)][:FISHER_WINDOWS]
        batch_size = max(1, config.batch_size // 4)
        found = fisher_shares(model, few, matrices, config.share, config.fisher_range, batch_size)
        return quotas(matrices, config, *found)
    stream = LayerStream.start(model, share(calibration.windows), config.batch_size, config.offload)
    outliers = outlier_shares(model, stream, config.owl_outlier)
    layers = sorted({matrix.layer for matrix in matrices})
    sizes = [sum(matrix.parameters for matrix in matrices if matrix.layer == layer) for layer in layers]
    shares = layer_sparsities([outliers[layer] for layer in layers], sizes, config.share, config.owl_range)
    by_layer = dict(zip(layers, shares, strict=True))
    return quotas(matrices, config, [by_layer[matrix.layer] for matrix in matrices])


def _described(model: PreTrainedModel, matrix: Matrix, pattern: str | None, lost: float | None) -> CutMatrix:
    weight = matrix.linear.weight
    zeros = weight.numel() - int(weight.count_nonzero())
    release(model, weight)
    return CutMatrix(matrix.layer, matrix.name, matrix.shape, zeros, zeros / weight.numel(), pattern, lost)
