"""Structured pruning from a configuration to a smaller model and the plan of what was cut."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.calibration.moments import solvable
from secateur.calibration.sensitivity import Metrics
from secateur.calibration.walks import NOTHING_KEPT, Walks
from secateur.calibration.windows import calibrate
from secateur.costs.measure import Measure
from secateur.costs.reached import Reached
from secateur.data import load_corpus, token_windows
from secateur.errors import InputError
from secateur.files.result_files import IMPORTANCE, PLAN
from secateur.handover.memory import note_done
from secateur.models.adapters import adapter_of
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.context import require_length
from secateur.models.halves import Part
from secateur.models.loading import model_label
from secateur.models.masks import zeros_to_keep
from secateur.models.memory import peak_memory, timed
from secateur.models.modes import in_eval_mode
from secateur.models.options import configured, takes_options
from secateur.models.rounded import refuse_rounded
from secateur.models.widths import count_parameters, declare_widths, head_dim_of
from secateur.models.zeros_record import forget_zeros, renew_zeros
from secateur.pruning.allocation import allocate
from secateur.pruning.budget import require_room
from secateur.pruning.config import LayerImportanceMethod, PruneConfig, UnitImportance
from secateur.pruning.cutting import cut_and_refit, cut_units
from secateur.pruning.importance import (
    LayerScores,
    UnitScore,
    activation_scores,
    magnitude_scores,
    own_scores,
    taylor_scores,
)
from secateur.pruning.ladders import units_removed
from secateur.pruning.layer_importance import LARGEST, LayerImportance, measure_layer_importance
from secateur.pruning.multiples import require_kept_multiples, require_multiples, with_whole_groups
from secateur.pruning.options import PruneOptions
from secateur.pruning.plan import PruningPlan, plan_layers, warn_of_miss
from secateur.pruning.plan_file import PlannedCut, read_plan
from secateur.pruning.removals import with_measured_halves
from secateur.pruning.scoring import metrics_of_layers, obs_scores
from secateur.pruning.targets import keep_expected_losses, measure_of
from secateur.pruning.units import check_group_ratios, identity, log_what_stays, part_shapes, usual_attention
from secateur.rounding.config import require_groups
from secateur.showing import Drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


@dataclass(repr=False)
class PruneResult(Drawn):
    """What a cut did.

    Attributes:
        plan: what each layer lost and keeps.
        layer_importance: the layers' scores, where the allocation used them or an option asked for them.
        seconds: time by phase.
        peak_memory_bytes: the most memory used: of the GPU, or of the process on a CPU.
    """

    plan: PruningPlan
    layer_importance: LayerImportance | None
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    def headline(self) -> str:
        return f"{self.plan.headline()}, {sum(self.seconds.values()):.1f} s"

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return self.plan.rows_of_figures()

    def plot(self) -> "Figure":
        from secateur.report import figure_of, pruning_strategy

        return figure_of(
            pruning_strategy, self.plan.to_dict(), self.layer_importance.to_dict() if self.layer_importance else None
        )

    def files(self) -> dict[str, Any]:
        """The JSON files that go beside the model."""
        files: dict[str, Any] = {PLAN: self.plan.to_dict()}
        if self.layer_importance is not None:
            files[IMPORTANCE] = self.layer_importance.to_dict()
        return files


@takes_options(PruneConfig, also={"importance": UnitImportance | UnitScore})
@in_eval_mode
def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: PruneConfig | None = None,
    *,
    layer_importance: LayerImportance | LayerImportanceMethod | Sequence[float] | None = None,
    walks: Walks = NOTHING_KEPT,
    **options: Unpack[PruneOptions],
) -> PruneResult:
    """Remove whole GQA groups and MLP channels from a model, in place.

    Args:
        model: a causal language model of a supported family.
        tokenizer: its tokenizer; None will do where the data is tokens.
        config: what to cut.
        options: fields of `PruneConfig`, instead of `config` or over it: `prune(model, tokenizer, ratio=0.25)`.
            `importance` may be a function of one's own: it is given a layer's index, "attention" or "mlp", and
            `UnitStatistics`, and returns a score for each unit, (units,); the lowest leave first.
        layer_importance: scores of the layers, measured before or one number for each, or how to measure them:
            removal, activation or similarity. They are measured if the allocation needs them or an option is about
            them. The allocations `inverse` and `proportional` go by them.
        walks: what an earlier try with the same model and settings has done, of a model that is streamed.

    Raises:
        InputError: the options do not fit the model, or the ratio is more than it can lose.
        DataError: the calibration text cannot be used.
        ModelError: the model's family is not supported, or a weight is NaN or infinite.
    """
    given: dict[str, Any] = {**options}
    own_score: UnitScore | None = given.pop("importance") if callable(given.get("importance")) else None
    if own_score is not None:
        given["importance"] = "activation"  # which is found on the same way
    if isinstance(layer_importance, str):
        given["layer_importance"], layer_importance = layer_importance, None
    config = configured(PruneConfig, config, given)
    require_in_memory(model)
    require_finite(model, "the model")
    refuse_rounded(model, "prune the model that they came from, with --quantize")
    if zeros_to_keep(model, config.zeros) and config.compensate:
        raise InputError(
            "the model has zeros, which the re-fit would fill; prune first and run sparsify on the result, or pass "
            "--no-compensate, or --zeros fill"
        )
    require_length(model, config.seqlen)
    log_what_stays(model)
    rounding = config.rounding(model)
    if rounding is not None:
        require_groups(model, rounding.group)
        config = with_whole_groups(config, model)
    shapes, before, head_dim = part_shapes(model), count_parameters(model), head_dim_of(model)
    uncut = identity(model)
    if layer_importance is not None and not isinstance(layer_importance, LayerImportance):
        layer_importance = _given_importance(layer_importance, len(shapes), config)
    planned = read_plan(config.plan, model) if config.plan is not None else None
    measure: Measure | None = None
    cut_layers = config.cut_layers(len(shapes))
    if planned is None:
        require_multiples(config, shapes, config.even)
        measure = measure_of(model, tokenizer, config)
        require_room(model, config, measure)
    else:
        require_kept_multiples(config, shapes, planned.counts, planned.source)
    seconds: dict[str, float] = {}
    with peak_memory(model) as memory, solvable(config.damping):
        with timed(seconds, "calibration text"):
            calibration = calibrate(model, tokenizer, config)
            windows = calibration.windows
        with timed(seconds, "layer importance", said=layer_importance is None and needs_importance(config)):
            importance = layer_importance or _importance_if_needed(model, tokenizer, config)
        layer_scores = importance.importance if importance else None
        with timed(seconds, "unit scores"):
            metrics = _metrics(model, windows, config, planned)
            scores, counts = _decide(model, windows, config, planned, layer_scores, metrics, walks, own_score, measure)
        with timed(seconds, "cut"):
            if config.compensate:
                order = scores if planned or not config.by_refit else None
                sizes = config.batch_size, config.damping
                removed = cut_and_refit(model, order, counts, windows, *sizes, metrics, config.offload, walks, rounding)
            else:
                removed = cut_units(model, scores, counts)
    check_group_ratios(model)
    declare_widths(model)
    if config.zeros == "fill":
        forget_zeros(model)
    else:
        renew_zeros(model)
    after = count_parameters(model)
    if planned:
        cut_layers = [layer for layer in cut_layers if layer not in planned.frozen]
    plan = PruningPlan(
        ratio=1 - after / before if planned or measure or config.only_drops else config.ratio,
        parameters_before=before,
        parameters_after=after,
        head_dim=head_dim,
        query_heads_per_group=usual_attention(shapes).heads_per_group,
        layers=plan_layers(shapes, head_dim, removed, cut_layers, layer_scores),
        settings={**config.model_dump(), **({"importance": _name_of(own_score)} if own_score else {})},
        calibration=calibration.description,
        calibration_windows=len(windows),
        calibration_source=calibration.corpus.source,
        model=uncut,
        target=planned.target if planned else Reached.by(measure, config, counts),
    )
    warn_of_miss(plan, config.even)
    own = {"importance": plan.settings["importance"]} if own_score else {}
    note_done(model, "prune", plan.to_dict(), config, **own)
    return PruneResult(plan, importance, seconds, memory.bytes)


@in_eval_mode
def score_layers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, config: PruneConfig
) -> LayerImportance:
    """The layers' importance as the configuration wants it: read from a file, or measured.

    Raises:
        InputError: `layer_importance_file` is of a model with another number of layers.
        DataError: the calibration text cannot be used.
    """
    count = len(adapter_of(model).layers(model))
    if config.layer_importance_file is not None:
        return LayerImportance.read(config.layer_importance_file, count)
    corpus = load_corpus(config.data, "train", config)
    windows = token_windows(tokenizer, corpus, config.seqlen, limit=config.layer_importance_windows, seed=config.seed)
    importance = measure_layer_importance(model, windows, config.layer_importance, config.batch_size)
    return replace(importance, corpus=corpus.description, model=model_label(model.config.name_or_path or ""))


@in_eval_mode
def unit_scores(
    model: PreTrainedModel,
    windows: Tensor,
    config: PruneConfig,
    metrics: Metrics | None = None,
    walks: Walks = NOTHING_KEPT,
    own_score: UnitScore | None = None,
) -> list[LayerScores]:
    """The units of every layer in the order in which they go, with what each costs.

    Args:
        windows: calibration tokens, (windows, seq).
        metrics: for `fisher`, `metrics_of_layers`.
        walks: what an earlier try has done.
        own_score: a function of the user's own, in the place of `config.importance`.
    """
    if own_score is not None:
        return own_scores(model, windows, config.batch_size, config.offload, walks, own_score)
    if config.by_refit:
        scores = obs_scores(model, windows, config.batch_size, config.damping, metrics, config.offload, walks)
        return with_measured_halves(model, scores, windows, config.batch_size, config.offload, walks)
    if config.importance == "taylor":
        return taylor_scores(model, windows, config.batch_size)
    if config.importance == "activation":
        return activation_scores(model, windows, config.batch_size, config.offload, walks)
    return magnitude_scores(model)


def _metrics(
    model: PreTrainedModel, windows: Tensor, config: PruneConfig, planned: PlannedCut | None
) -> Metrics | None:
    """What `fisher` orders units by, where any are left to order."""
    if config.importance != "fisher" or (planned and planned.names_all_units):
        return None
    return metrics_of_layers(model, windows, config.batch_size)


def _decide(
    model: PreTrainedModel,
    windows: Tensor,
    config: PruneConfig,
    planned: PlannedCut | None,
    layer_importance: Sequence[float] | None,
    metrics: Metrics | None,
    walks: Walks,
    own_score: UnitScore | None,
    measure: Measure | None,
) -> tuple[list[LayerScores], dict[tuple[int, Part], int]]:
    """The order in which units go, and how many of each half of each layer."""
    if planned is None:
        scores = unit_scores(model, windows, config, metrics, walks, own_score)
        ladders = allocate(model, config, scores, layer_importance, measure)
        if config.by_refit and own_score is None:  # whose costs are nats
            keep_expected_losses(model, config, ladders)
        return scores, units_removed(ladders)
    found_by_the_cut = config.compensate and config.by_refit
    if planned.names_all_units or found_by_the_cut:
        return planned.units, planned.counts
    scored = unit_scores(model, windows, config, metrics, walks, own_score)
    return [{**found, **named} for found, named in zip(scored, planned.units, strict=True)], planned.counts


def _given_importance(scores: Sequence[float], layers: int, config: PruneConfig) -> LayerImportance:
    """Scores of layers that a user gives as numbers."""
    try:
        numbers = [float(score) for score in scores]
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(scores).__name__
        raise InputError(f"layer_importance= is a {kind} and no list of numbers; give one for each layer") from error
    if isinstance(scores, bytes | set | frozenset | Mapping):
        raise InputError(f"layer_importance= is a {type(scores).__name__}; give a list with one number for each layer")
    if len(numbers) != layers:
        raise InputError(f"layer_importance= has {len(numbers)} scores; the model has {layers} layers")
    if not all(abs(number) <= LARGEST for number in numbers):
        raise InputError(f"layer_importance= holds scores that are not finite, or beyond {LARGEST:g}")
    if config.even or config.allocation not in ("inverse", "proportional"):
        logger.warning(
            "layer_importance= is recorded but not used: allocation %s goes by the units; pass allocation='inverse' or "
            "'proportional'",
            config.allocation,
        )
    return LayerImportance("given", numbers, "as given")


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def _importance_if_needed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, config: PruneConfig
) -> LayerImportance | None:
    return score_layers(model, tokenizer, config) if needs_importance(config) else None


def needs_importance(config: PruneConfig) -> bool:
    """Whether layers are scored: the allocation goes by that, or an option is about it."""
    ranked = config.allocation in ("inverse", "proportional") and not config.even
    asked = {"layer_importance", "layer_importance_windows", "layer_importance_file"} & config.model_fields_set
    return ranked or bool(asked)
