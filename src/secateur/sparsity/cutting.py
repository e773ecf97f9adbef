"""The cut itself: layers one after another, each projection fitted to what the cut ones before it give."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.calibration.moments import Gram, Moments, Norms
from secateur.calibration.streaming import LayerStream, device_of, onto
from secateur.calibration.targets import advance_with_outputs, towards
from secateur.calibration.walks import NOTHING_KEPT, Streams, Walks
from secateur.console import track
from secateur.distributed import broadcast, process_count, process_number
from secateur.models.adapters import adapter_of
from secateur.models.loading import resolve_device
from secateur.models.streamed import map_settled, settle
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
            lost[linear] = _norm_lost(linear.weight, keep)
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
            lost.update(_share_out(chosen, lambda linear: by(linear, quotas[linear])))

    for index in _cut_range({"cut": stream}, quotas, config, walks, lost):
        for half in stream.halves(index):
            *first, output = half.linears
            cut(first, stream.inputs(index, half, first[0]))
            inputs = stream.stored(stream.inputs(index, half, output))
            cut([output], inputs)
            stream.add(half, inputs)
    return lost


@torch.no_grad()
def cut_refitting(stream: LayerStream, quotas: Quotas, config: SparsifyConfig, walks: Walks = NOTHING_KEPT) -> Lost:
    """Cut a model in place by ADMM, towards what the uncut model gives.

    Two streams of the calibration text go through the layers side by side, the uncut model's and the cut one's. First
    projections are fitted to the uncut ones' outputs; output projections so that the cut stream comes back to the
    uncut one, which also mends what the layers before have left, each token's error taken relative to its hidden state.
    Arguments and result as `cut_streamed`.
    """
    lost: Lost = {}
    uncut = stream.fork()
    for index in _cut_range({"cut": stream, "uncut": uncut}, quotas, config, walks, lost):
        for half in stream.halves(index):
            *first, output = half.linears
            goals = uncut.stored(uncut.inputs(index, half, first[0]))
            mixed = advance_with_outputs(uncut, index, half)
            chosen = [linear for linear in first if linear in quotas]
            if chosen:
                given = onto(stream.inputs(index, half, first[0]), chosen[0].weight.device)
                gram = Gram.of_pairs(_tokens(given, goals))
                lost |= _refit(chosen, quotas, gram, config, _own_outputs)
            inputs = stream.stored(stream.inputs(index, half, output))
            if output in quotas:
                pairs = towards(half, inputs, stream.hidden, uncut.hidden, mixed)
                gram = Gram.of_pairs(_by_norm(pairs, uncut.hidden))
                lost |= _refit([output], quotas, gram, config, lambda _, cross: cross)
            stream.add(half, inputs)
    return lost


def _by_norm(pairs: Iterable[tuple[Tensor, Tensor]], hidden: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets over the root mean square of the hidden states there, as the next norm will scale them."""
    for (inputs, target), states in zip(pairs, hidden, strict=True):
        square = states.to(inputs.device).flatten(0, -2).float().square().mean(-1, keepdim=True)
        scale = square.clamp_min(torch.finfo(torch.float32).tiny).rsqrt()  # (tokens, 1)
        yield inputs.float() * scale, target.float() * scale


def _own_outputs(linear: nn.Linear, cross: Tensor) -> Tensor:
    """XᵀT for targets T = X'Wᵀ, from XᵀX' with the inputs X' of the uncut model."""
    return cross @ linear.weight.float().T


def _refit(
    linears: Sequence[nn.Linear],
    quotas: Quotas,
    gram: Gram,
    config: SparsifyConfig,
    towards: Callable[[nn.Linear, Tensor], Tensor],
) -> Lost:
    """ADMM with a ridge that holds the weights to what they were.

    Args:
        linears: projections with the same inputs.
        quotas: their zeros.
        gram: second moments of the inputs, and with what is aimed at; used up.
        config: how.
        towards: for a projection XᵀT, (in_features, out_features), out of the gram's cross moments.
    """

    ridge = gram.ridge_by_input(config.ridge)
    hessian = ScaledHessian.of(gram.inputs, ridge)

    def solve(linear: nn.Linear) -> Tensor:
        goal = towards(linear, gram.cross) + ridge[:, None] * linear.weight.float().T  # (in_features, out_features)
        return admm(linear.weight, hessian, goal, quotas[linear])

    return _share_out(linears, solve)


def _share_out(linears: Sequence[nn.Linear], solve: Callable[[nn.Linear], Tensor]) -> Lost:
    """Put new weights into projections with the same inputs, each solved by one process, which sends them to all."""
    solvers = [number % process_count() for number in range(len(linears))]
    lost: Lost = {}
    for linear, solver in zip(linears, solvers, strict=True):
        if solver == process_number():
            solved = solve(linear)
            lost[linear] = _norm_lost(linear.weight, solved != 0)
            linear.weight.copy_(solved)
    for linear, solver in zip(linears, solvers, strict=True):
        linear.weight.copy_(broadcast(linear.weight, solver))
        lost[linear] = float(broadcast(torch.tensor(lost.get(linear, 0.0)), solver))
    return lost


def _norm_lost(weight: Tensor, kept: Tensor) -> float:
    """The share of a matrix's squared norm that is not in the weights that are kept."""
    squares = weight.float().square()
    whole = squares.sum(dtype=torch.float64)
    return float((squares * ~kept).sum(dtype=torch.float64) / whole) if whole else 0.0


def _tokens(inputs: Iterable[Tensor], targets: Iterable[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches and positions in one row, on one device."""
    for one, other in zip(inputs, targets, strict=True):
        yield one.flatten(0, -2), other.to(one.device).flatten(0, -2)


def _wanda_cut(inputs: Iterable[Tensor], damping: float) -> Cut:
    norms = Norms.of(inputs).root

    def cut(linear: nn.Linear, quota: Quota) -> Tensor:
        weight = linear.weight.float()
        return weight * quota.keep(wanda(weight, norms))

    return cut


def _sparsegpt_cut(inputs: Iterable[Tensor], damping: float) -> Cut:
    damped, _ = Moments.of(batch.flatten(0, -2) for batch in inputs).damped(damping)
    return lambda linear, quota: sparsegpt(linear.weight, damped, quota)


def _cut_range(streams: Streams, quotas: Quotas, config: SparsifyConfig, walks: Walks, lost: Lost) -> Iterator[int]:
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
        walks.keep("cut", index, {"norm_lost": noted})
        walks.done("cut", index, streams)


def _chosen(layer: nn.Module, quotas: Quotas) -> list[nn.Linear]:
    """The projections of a layer that are cut."""
    return [module for module in layer.modules() if isinstance(module, nn.Linear) and module in quotas]


def _noted(walks: Walks, index: int, chosen: Sequence[nn.Linear]) -> Lost:
    """What an earlier try has noted of a layer's projections."""
    found = walks.found("cut", index, ["norm_lost"], lambda found: found["norm_lost"].shape == (len(chosen),))
    return dict(zip(chosen, found["norm_lost"].tolist(), strict=True))
