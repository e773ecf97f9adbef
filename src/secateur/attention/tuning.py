"""Thresholds for every head, in one pass of the text through the model."""

import logging
import time
from dataclasses import dataclass, fields, replace
from typing import Unpack

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.attention.blocks import choose
from secateur.attention.config import TuneConfig
from secateur.attention.curve import Curve, pv_curve, threshold_curve
from secateur.attention.hook import watching
from secateur.attention.options import TuneOptions
from secateur.attention.profile import DENSE, AttentionProfile, LayerProfile
from secateur.attention.sparse import predict
from secateur.calibration.streaming import LayerStream
from secateur.console import track
from secateur.data import load_corpus, token_windows
from secateur.distributed import all_reduce_sum, process_count, process_number
from secateur.errors import InputError
from secateur.models.adapters import adapter_of
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.context import require_length
from secateur.models.fingerprint import sampled_weights
from secateur.models.memory import timed
from secateur.models.modes import in_eval_mode
from secateur.models.options import configured, takes_options
from secateur.models.tokenizers import require_known

logger = logging.getLogger(__name__)

NOT_TUNED = "a sliding window, linear attention or none"  # what sparse attention is not used for
LEAST_GAIN = 0.1
# From nothing but the blocks that always stay to all; steps are even in the logarithm of what is left, and small where
# most heads end up.
REST = torch.cat([torch.logspace(-0.1, -0.7, 3), torch.logspace(-0.8, -1.8, 14), torch.logspace(-1.95, -3, 6)])
CDF_THRESHOLDS = torch.cat([torch.zeros(1), 1 - REST, torch.tensor([DENSE])])
PV_THRESHOLDS = torch.tensor([1.0, 2.0, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0, torch.inf])


@dataclass(frozen=True)
class LayerInputs:
    """What one layer's attention works on: (samples, heads, tokens, head_dim), and the factor of the scores."""

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float


@takes_options(TuneConfig)
@in_eval_mode
def tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: TuneConfig | None = None,
    **options: Unpack[TuneOptions],
) -> AttentionProfile:
    """Find for each head the threshold that is worth most while the error of its output is within a bound.

    The text goes through the dense model a layer at a time. In each, one pass over the blocks gives the error of every
    threshold (`threshold_curve`), another that of every threshold for P·V (`pv_curve`). With several processes
    (torchrun) each takes its share of the heads; all return the same profile.

    Args:
        model: a model of a supported family; it is not changed.
        tokenizer: its tokenizer; None will do where the data is tokens.
        config: text, bounds and layers.
        options: fields of `TuneConfig`, instead of `config` or over it.

    Raises:
        InputError: the layers are outside the model, or none of them has softmax attention over all tokens.
        DataError: the text is shorter than one window.
        ModelError: the family is not supported, or weights are not finite or outside of memory.
    """
    config = configured(TuneConfig, config, options)
    require_in_memory(model)
    layers = adapter_of(model).layers(model)
    chosen = [index for index in config.layer_range(len(layers)) if not _is_dense(model, index, config.seqlen)]
    if not chosen:
        raise InputError(f"all of these layers have {NOT_TUNED}, which sparse attention leaves as it is")
    if len(chosen) < len(config.layer_range(len(layers))):
        logger.warning("Layers with %s stay as they are: %d are tuned", NOT_TUNED, len(chosen))
    require_finite(model, "the model")
    require_length(model, config.seqlen)
    windows = token_windows(
        tokenizer, load_corpus(config.data, "train", config), config.seqlen, limit=config.windows, seed=config.seed
    )
    require_known(model, windows)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    profiles: dict[int, LayerProfile] = {}
    stream = LayerStream.start(model, windows, batch_size=1)
    for index in track(range(chosen[-1] + 1), "Tuning attention"):
        with timed(seconds, "dense forward"):
            inputs = attended(model, stream, index) if index in chosen else None
            for half in stream.halves(index)[0 if inputs is None else 1 :]:
                stream.run(index, half)
            stream.end_layer(index)
        if inputs is not None:
            with timed(seconds, "thresholds"):
                profiles[index] = tune_layer(inputs, config)
    logger.debug("tuned in %.1f s: %s", time.perf_counter() - start, seconds)
    return AttentionProfile(
        layers=profiles,
        blocks=config.blocks(),
        fingerprint=sampled_weights(model),
        tuning={
            "model": model.name_or_path,
            "data": str(config.data),
            "windows": len(windows),
            "seqlen": config.seqlen,
            "seed": config.seed,
            "metric": config.metric,
            "l1": config.l1,
            "pv_l1": config.pv_l1,
        },
    )


def _is_dense(model: PreTrainedModel, index: int, seqlen: int) -> bool:
    adapter = adapter_of(model)
    half = adapter.half(adapter.layers(model)[index], "attention")
    if half.is_absent or not half.names.softmax:
        return True
    of_all = getattr(model.config, "sliding_window", None)
    window = getattr(half.mixer, "sliding_window", of_all)
    return window is not None and window < seqlen


def attended(model: PreTrainedModel, stream: LayerStream, index: int) -> LayerInputs:
    """Run a layer's attention over all samples, and what it worked on."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    scales: list[float] = []

    def keep(_: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        seen.append((query, key, value))
        scales.append(scale)

    with watching(model, keep):
        stream.run(index, stream.half(index, "attention"))
    query, key, value = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return LayerInputs(query, key, value, scales[0])


def tune_layer(inputs: LayerInputs, config: TuneConfig) -> LayerProfile:
    """Thresholds of all heads of a layer, the groups of heads shared out over processes."""
    kv_heads = inputs.key.shape[1]
    names = [field.name for field in fields(LayerProfile)]
    found = torch.zeros(len(names), kv_heads, inputs.query.shape[1] // kv_heads, device=inputs.query.device)
    for group in range(process_number(), kv_heads, process_count()):
        profile = tune_group(inputs, group, config)
        found[:, group] = torch.stack([getattr(profile, name) for name in names]).to(found)
    all_reduce_sum(found)
    return LayerProfile(**dict(zip(names, found.flatten(1).cpu().unbind(), strict=True)))


def tune_group(inputs: LayerInputs, group: int, config: TuneConfig) -> LayerProfile:
    """Thresholds of the heads that share one key/value head."""
    queries_per_group = inputs.query.shape[1] // inputs.key.shape[1]
    query = inputs.query[:, group * queries_per_group : (group + 1) * queries_per_group]
    key, value = inputs.key[:, group : group + 1], inputs.value[:, group : group + 1]
    grid = config.grid(query.shape[2], key.shape[2], causal=True)
    prediction = predict(query, key, grid, inputs.scale, config)
    tensors = (query, key, value)
    curve = threshold_curve(*tensors, prediction, grid, inputs.scale, CDF_THRESHOLDS, config.metric)
    profile = with_cdf(curve, config)
    if bool((profile.cdfthreshd == DENSE).all()):
        return profile
    chosen = choose(prediction, grid, profile.cdfthreshd)
    return with_pv(profile, pv_curve(*tensors, chosen, grid, inputs.scale, PV_THRESHOLDS, config.metric), config)


def with_cdf(curve: Curve, config: TuneConfig) -> LayerProfile:
    """The thresholds of mass that an error curve allows, P·V left whole."""
    worth = curve.sparsity - config.price * curve.squared_error
    thresholds, sparsity, error = _best(curve, CDF_THRESHOLDS, config.l1, worth)
    dense = sparsity < LEAST_GAIN
    return LayerProfile(
        cdfthreshd=thresholds.masked_fill(dense, DENSE),
        pvthreshd=torch.full_like(thresholds, torch.inf),
        sparsity=sparsity.masked_fill(dense, 0),
        pv_sparsity=torch.zeros_like(sparsity),
        error=error.masked_fill(dense, 0),
    )


def with_pv(profile: LayerProfile, curve: Curve, config: TuneConfig) -> LayerProfile:
    """The profile with the thresholds of P·V that an error curve allows."""
    # Half of a kept block's products are those with V.
    work = (1 - profile.sparsity[:, None].to(curve.sparsity)) / 2
    worth = work * curve.sparsity - config.price * curve.squared_error
    thresholds, sparsity, error = _best(curve, PV_THRESHOLDS, config.pv_l1, worth)
    dense = profile.cdfthreshd == DENSE
    return replace(
        profile,
        pvthreshd=thresholds.masked_fill(dense, torch.inf),
        pv_sparsity=sparsity.masked_fill(dense, 0),
        error=error.masked_fill(dense, 0),
    )


def _best(curve: Curve, thresholds: Tensor, bound: float, worth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each head the threshold worth most of those from which on all errors are within the bound.

    Args:
        curve: errors and sparsity of the thresholds, the last of which leaves nothing out.
        thresholds: (thresholds,).
        bound: of the error.
        worth: (heads, thresholds).

    Returns:
        The thresholds, their sparsity and their error, (heads,) each.
    """
    within = (curve.error <= bound).flip(-1).cummin(-1).values.flip(-1)
    within[:, -1] = True
    best = worth.masked_fill(~within, -torch.inf).argmax(-1, keepdim=True)
    sparsity, error = (values.gather(-1, best)[:, 0].float() for values in (curve.sparsity, curve.error))
    return thresholds.to(best.device)[best[:, 0]], sparsity, error
