"""How far a cut model is from the uncut one, and what narrowing any half of it would cost.

The first runs the model; the second takes one pass forward and two back for all halves at once.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.calibration.gradients import only_gradients_of
from secateur.calibration.losses import summed_divergence
from secateur.calibration.sensitivity import final_states, gradient_of, residual_streams
from secateur.calibration.streaming import LayerStream
from secateur.console import track
from secateur.distributed import all_reduce_numbers, all_reduce_sum, share, shared_batches
from secateur.models.adapters import adapter_of, head_of
from secateur.pruning.search.candidates import Candidates, HalfName

CHUNK_TOKENS = 64  # few enough that a chunk's logits stay in a processor's cache


@dataclass
class Watched:
    """Text that a cut is measured on.

    Attributes:
        windows: tokens that the cut is not fitted to, (windows, seq).
        uncut: what the uncut model's head is given, on the CPU: (batch, seq, hidden_size) for each batch of this
            process's share.
        batch_size: windows that go through the model at once.
    """

    windows: Tensor
    uncut: list[Tensor]
    batch_size: int

    @classmethod
    def by(cls, uncut: PreTrainedModel, windows: Tensor, batch_size: int) -> "Watched":
        return cls(windows, list(_final_states(uncut, windows, batch_size)), batch_size)


@torch.no_grad()
def _final_states(model: PreTrainedModel, windows: Tensor, batch_size: int) -> Iterator[Tensor]:
    adapter = adapter_of(model)
    stream = LayerStream.start(model, share(windows), batch_size)
    for index in range(len(adapter.layers(model))):
        stream.pass_through(index)
    for hidden in stream.hidden:
        yield final_states(model, hidden).cpu()


def divergence(model: PreTrainedModel, watched: Watched) -> float:
    """Mean KL divergence of the next token's distribution from the uncut model's, in nats per token."""
    states = zip(_final_states(model, watched.windows, watched.batch_size), watched.uncut, strict=True)
    total = sum(summed_divergence(model, cut, uncut, CHUNK_TOKENS) for cut, uncut in states)
    total, scored = all_reduce_numbers(total, float(share(watched.windows).numel()))
    return total / scored


def expected_changes(
    model: PreTrainedModel, cut: Mapping[HalfName, Candidates], watched: Watched, seed: int
) -> dict[HalfName, float]:
    """By how much the divergence is expected to rise with one half narrower, for each that can be narrowed.

    With its narrower projection a half's output projection gives δ more. The divergence changes by about
    Σ g·δ + ½ E[(ĝ·δ)²]: g is the gradient of the divergence there, ĝ that of the log-likelihood of a token drawn from
    the cut model's own distribution, whose second moment is the curvature (Fisher information).

    Args:
        model: the model with the cut's output projections in place.
        cut: the halves that may move, with their candidates.
        seed: of the tokens drawn.
    """
    # Drawn for all windows at once, so that several processes draw what one does.
    chances = torch.rand(watched.windows.shape, generator=torch.Generator().manual_seed(seed))
    movable = {name: half.narrower for name, half in cut.items() if half.narrower is not None}
    slopes, curvatures = torch.zeros(2, len(movable), dtype=torch.float64)
    adapter = adapter_of(model)
    batches = (shared_batches(tensor, watched.batch_size) for tensor in (watched.windows, chances))
    with only_gradients_of(model, []):
        for tokens, chance, uncut in track(list(zip(*batches, watched.uncut, strict=True)), "Measuring the cut"):
            with _flow_through_projections(model, movable) as (inputs, outputs):
                _, last = residual_streams(model, tokens.to(model.device), recompute=False, watched=False)
            final = final_states(model, last)
            pulls, draws = _pulls_on_head(model, final.detach(), uncut.to(final.device), chance)
            final.backward(pulls, retain_graph=True)
            towards = _take_gradients(outputs)
            final.backward(draws)
            drawn = _take_gradients(outputs)
            for position, (name, narrower) in enumerate(movable.items()):
                present = adapter.half(adapter.layers(model)[name[0]], name[1]).output.weight.detach()
                added = nn.functional.linear(inputs[name], narrower().to(present.device) - present).float()
                slopes[position] += (towards[name].float() * added).sum().item()
                curvatures[position] += 0.5 * (drawn[name].float() * added).sum(-1).square().sum().item()
    changes = all_reduce_sum(slopes + curvatures) / watched.windows.numel()
    return dict(zip(movable, changes.tolist(), strict=True))


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some tokens at a time of tensors of (batch, seq, …)."""
    return zip(*(tensor.flatten(0, 1).split(CHUNK_TOKENS) for tensor in tensors), strict=True)


@torch.no_grad()
def _pulls_on_head(model: PreTrainedModel, final: Tensor, uncut: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients at what goes into the head, of the summed divergence and of drawn tokens' losses.

    Args:
        final: the cut model's states before its head, (batch, seq, hidden_size).
        uncut: the uncut model's.
        chances: a number between 0 and 1 for each token to be drawn, (batch, seq).

    Returns:
        Two tensors shaped like `final`.
    """
    head = head_of(model)
    pulls, draws = [], []
    for states, goal, chance in _chunks(final, uncut, chances.unsqueeze(-1)):
        place = head.weight.device
        states = states.requires_grad_(True)
        with torch.enable_grad():
            logits = head(states)  # (tokens, vocabulary)
        probabilities = logits.detach().float().softmax(-1).to(place)
        pull = probabilities - head(goal).float().softmax(-1).to(place)
        pulls.append(_gradient_at(states, logits, pull, retain_graph=True))
        mass = probabilities.cumsum(-1)
        drawn = torch.searchsorted(mass, chance.to(mass.device) * mass[:, -1:]).clamp(max=mass.shape[-1] - 1)
        probabilities.scatter_add_(1, drawn, -torch.ones_like(mass[:, :1]))
        draws.append(_gradient_at(states, logits, probabilities))
    return torch.cat(pulls).view_as(final), torch.cat(draws).view_as(final)


def _gradient_at(states: Tensor, logits: Tensor, pull: Tensor, **options: bool) -> Tensor:
    """The gradient at what goes into the head, given that at its logits."""
    (found,) = torch.autograd.grad(logits, states, pull.to(logits), **options)
    return found


@contextmanager
def _flow_through_projections(
    model: PreTrainedModel, halves: Mapping[HalfName, Any]
) -> Iterator[tuple[dict[HalfName, Tensor], dict[HalfName, Tensor]]]:
    """What goes into the output projections of halves while the block runs, (batch, seq, in_features) each, and what
    comes out of them, (batch, seq, hidden_size), ready to gather its gradient."""
    adapter = adapter_of(model)
    inputs: dict[HalfName, Tensor] = {}
    outputs: dict[HalfName, Tensor] = {}

    def keep(name: HalfName) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name], outputs[name] = given[0].detach(), output
            output.retain_grad()

        return hook

    handles = [
        adapter.half(adapter.layers(model)[name[0]], name[1]).output.register_forward_hook(keep(name))
        for name in halves
    ]
    try:
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def _take_gradients(outputs: Mapping[HalfName, Tensor]) -> dict[HalfName, Tensor]:
    gradients = {name: gradient_of(output) for name, output in outputs.items()}
    for output in outputs.values():
        output.grad = None
    return gradients
