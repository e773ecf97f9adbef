"""The cut itself: layers one after another, each projection fitted to what the cut ones before it give."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.calibration.moments import Gram, Moments, Norms
from secateur.calibration.shared_inputs import Solved, by_norm, own_outputs, share_out, tokens
from secateur.calibration.streaming import LayerStream, device_of, onto
from secateur.calibration.targets import advance_with_outputs, towards
from secateur.calibration.walks import NOTHING_KEPT, Streams, Walks
from secateur.console import track
from secateur.models.adapters import adapter_of
from secateur.models.loading import resolve_device
from secateur.models.streamed import map_settled, settle
from secateur.rounding.config import Rounding
from secateur.rounding.halves import blank_scale, note_scale, rounded
from secateur.rounding.kept import note_kept_scales, scales_of
from secateur.sparsity.admm import ScaledHessian, admm
from secateur.sparsity.config import SparsifyConfig
from secateur.sparsity.quota import Quota
from secateur.sparsity.scores import magnitude, wanda
from secateur.sparsity.sparsegpt import sparsegpt

Quotas = Mapping[nn.Linear, Quota]
Cut = Callable[[nn.Linear, Quota], Tensor]
Lost = dict[nn.Linear, float]  # of a projection's squared norm, the share in weights that became zero


@torch.no_grad()
def cut_by_magnitude(model: PreTrainedModel, quotas: Quotas) -> Lost:
    """Zero the smallest weights of each row. No text is needed. Returns as `cut_streamed`."""
    lost: Lost = {}
    for index, layer in enumerate(adapter_of(model).layers(model)):
        for linear in (module for module in layer.modules() if module in quotas):
            assert isinstance(linear, nn.Linear)
            keep = quotas[linear].keep(magnitude(linear.weight.float()))
            lost[linear] = float(_norm_lost(linear.weight, keep))
            linear.weight.mul_(keep)
        settle(model, index, layer)
    return lost


@torch.no_grad()
def cut_streamed(stream: LayerStream, quotas: Quotas, config: SparsifyConfig, walks: Walks = NOTHING_KEPT) -> Lost:
    """Cut a model in place by Wanda or SparseGPT, while the calibration text goes through it once.

    Each half of a layer is run as far as its first projections, which are cut; then as far as its output projection,
    which is cut; and then on. So every projection is cut by inputs that the cut ones before it have made.

    Args:
        stream: calibration text before the first layer.
        quotas: the projections that are cut, and their zeros.
        config: how.
        walks: what an earlier try has done of a streamed model, whose layers it has written.

    Returns:
        For each projection the share of its squared norm that was in the weights that are zero now.
    """
    lost: Lost = {}
    statistics = _wanda_cut if config.method == "wanda" else _sparsegpt_cut

    def cut(linears: Sequence[nn.Linear], inputs: Iterable[Tensor]) -> None:
        chosen = [linear for linear in linears if linear in quotas]
        if chosen:
            by = statistics(onto(inputs, chosen[0].weight.device), config.ridge)

            def solve(linear: nn.Linear) -> Solved:
                solved = by(linear, quotas[linear])
                return solved, _norm_lost(linear.weight, solved != 0)

            lost.update(_lost(share_out(chosen, solve, _nothing_lost)))

    for index in _cut_range({"cut": stream}, quotas, config, walks, lost):
        for half in stream.halves(index):
            *first, output = half.linears
            cut(first, stream.inputs(index, half, first[0]))
            inputs = stream.stored(stream.inputs(index, half, output))
            cut([output], inputs)
            stream.add(half, inputs)
    return lost


@torch.no_grad()
def cut_refitting(
    stream: LayerStream,
    quotas: Quotas,
    config: SparsifyConfig,
    walks: Walks = NOTHING_KEPT,
    rounding: Rounding | None = None,
) -> Lost:
    """Cut a model in place by ADMM, towards what the uncut model gives.

    Two streams of the calibration text go through the layers side by side, the uncut model's and the cut one's. First
    projections are fitted to the uncut ones' outputs; output projections so that the cut stream comes back to the
    uncut one, which also mends what the layers before have left, each token's error taken relative to its hidden state.
    Arguments and result as `cut_streamed`; with a rounding the weights left are rounded before the stream goes on.
    """
    lost: Lost = {}
    uncut = stream.fork()
    for index in _cut_range({"cut": stream, "uncut": uncut}, quotas, config, walks, lost, rounding):
        for half in stream.halves(index):
            *first, output = half.linears
            goals = uncut.stored(uncut.inputs(index, half, first[0]))
            mixed = advance_with_outputs(uncut, index, half)
            chosen = [linear for linear in first if linear in quotas]
            if chosen:
                given = onto(stream.inputs(index, half, first[0]), chosen[0].weight.device)
                gram = Gram.of_pairs(tokens(given, goals))
                lost |= _refit(chosen, quotas, gram, config, own_outputs, rounding)
            inputs = stream.stored(stream.inputs(index, half, output))
            if output in quotas:
                pairs = towards(half, inputs, stream.hidden, uncut.hidden, mixed)
                gram = Gram.of_pairs(by_norm(pairs, uncut.hidden))
                lost |= _refit([output], quotas, gram, config, lambda _, cross: cross, rounding)
            stream.add(half, inputs)
    return lost


def _refit(
    linears: Sequence[nn.Linear],
    quotas: Quotas,
    gram: Gram,
    config: SparsifyConfig,
    towards: Callable[[nn.Linear, Tensor], Tensor],
    rounding: Rounding | None,
) -> Lost:
    """ADMM with a ridge that holds the weights to what they were.

    Args:
        linears: projections with the same inputs.
        quotas: their zeros.
        gram: second moments of the inputs, and with what is aimed at; used up.
        config: how.
        towards: for a projection XᵀT, (in_features, out_features), out of the gram's cross moments.
        rounding: of the weights left; None to leave them as they come out.
    """
    ridge = gram.ridge_by_input(config.ridge)
    hessian = ScaledHessian.of(gram.inputs, ridge)

    def solve(linear: nn.Linear) -> Solved:
        goal = towards(linear, gram.cross) + ridge[:, None] * linear.weight.float().T  # (in_features, out_features)
        solved = admm(linear.weight, hessian, goal, quotas[linear])
        lost = _norm_lost(linear.weight, solved != 0)
        if rounding is None:
            return solved, lost
        weight, scale = rounded(linear, solved, hessian.damped(config.ridge, rounding.damping), rounding)
        return weight, lost, scale

    def blanks(linear: nn.Linear) -> Solved:
        return (*_nothing_lost(linear), *([] if rounding is None else [blank_scale(linear, rounding)]))

    found = share_out(linears, solve, blanks)
    if rounding is not None:
        for linear, (_, scale) in found.items():
            note_scale(linear, scale, rounding)
    return _lost(found)


def _lost(found: Mapping[nn.Linear, Solved]) -> Lost:
    return {linear: float(lost) for linear, (lost, *_) in found.items()}


def _nothing_lost(_: nn.Linear) -> Solved:
    return (torch.zeros((), dtype=torch.float64),)


def _norm_lost(weight: Tensor, kept: Tensor) -> Tensor:
    """The share of a matrix's squared norm that is not in the weights that are kept, float64."""
    squares = weight.float().square()
    whole = squares.sum(dtype=torch.float64).cpu()
    lost = (squares * ~kept).sum(dtype=torch.float64).cpu()
    return lost / whole if whole else torch.zeros_like(lost)


def _wanda_cut(inputs: Iterable[Tensor], damping: float) -> Cut:
    norms = Norms.of(inputs).root

    def cut(linear: nn.Linear, quota: Quota) -> Tensor:
        weight = linear.weight.float()
        return weight * quota.keep(wanda(weight, norms))

    return cut


def _sparsegpt_cut(inputs: Iterable[Tensor], damping: float) -> Cut:
    damped, _ = Moments.of(batch.flatten(0, -2) for batch in inputs).damped(damping)
    return lambda linear, quota: sparsegpt(linear.weight, damped, quota)


def _cut_range(
    streams: Streams,
    quotas: Quotas,
    config: SparsifyConfig,
    walks: Walks,
    lost: Lost,
    rounding: Rounding | None = None,
) -> Iterator[int]:
    """All layers up to the last that is cut, each brought to the device while it is worked on if so wanted.

    Those that an earlier try has done take the weights that it has written, and `lost` what it has noted.
    """
    model = streams["cut"].model
    layers = adapter_of(model).layers(model)
    last = max(index for index, layer in enumerate(layers) if any(module in quotas for module in layer.modules()))
    first = walks.begin("cut", streams)
    for index in range(first):
        map_settled(model, index, layers[index])
        lost |= _noted(walks, index, _chosen(layers[index], quotas))
        if rounding is not None:
            note_kept_scales(walks, "cut", model, index, rounding)
    for index in track(range(first, last + 1), "Cutting"):
        home = device_of(layers[index], streams["cut"].hidden)
        if config.layer_by_layer:
            layers[index].to(resolve_device(config.device))
        yield index
        for stream in streams.values():
            stream.end_layer(index)
        layers[index].to(home)
        settle(model, index, layers[index])
        noted = torch.tensor([lost[linear] for linear in _chosen(layers[index], quotas)], dtype=torch.float64)
        walks.keep("cut", index, {"norm_lost": noted, **scales_of(model, index)})
        walks.done("cut", index, streams)


def _chosen(layer: nn.Module, quotas: Quotas) -> list[nn.Linear]:
    """The projections of a layer that are cut."""
    return [module for module in layer.modules() if isinstance(module, nn.Linear) and module in quotas]


def _noted(walks: Walks, index: int, chosen: Sequence[nn.Linear]) -> Lost:
    """What an earlier try has noted of a layer's projections."""
    found = walks.found("cut", index, ["norm_lost"], lambda found: found["norm_lost"].shape == (len(chosen),))
    return dict(zip(chosen, found["norm_lost"].tolist(), strict=True))
