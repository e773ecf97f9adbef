"""What it would cost to move any half of a cut model to another width, by one pass forward and two back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.console import track
from secateur.models.adapters import adapter_of
from secateur.models.gradients import only_gradients_of
from secateur.models.processes import share, shared_batches, sum_over_processes, sums_over_processes
from secateur.models.streaming import LayerStream
from secateur.pruning.search.candidates import Candidates, HalfName
from secateur.pruning.sensitivity import gradient_of, residual_streams
from secateur.pruning.units import PARTS, output_projection

CHUNK_TOKENS = 64  # few enough that a chunk's logits stay in a processor's cache


@dataclass
class Measured:
    """A cut model against the uncut one.

    Attributes:
        divergence: mean KL divergence of the next token's distribution, in nats per token.
        changes: for each half, by the number of steps taken, the expected change of the divergence.
    """

    divergence: float
    changes: dict[HalfName, dict[int, float]] = field(default_factory=dict)


@torch.no_grad()
def final_states(model: PreTrainedModel, windows: Tensor, batch_size: int) -> list[Tensor]:
    """What the model's head is given, on the CPU: (batch, seq, hidden_size) for each batch of this process's share."""
    adapter = adapter_of(model)
    stream = LayerStream.start(model, share(windows), batch_size)
    for index in range(len(adapter.layers(model))):
        for step, _ in stream.halves(index):
            stream.advance(index, step)
    norm = adapter.final_norm(model)
    place = next(norm.parameters()).device
    return [norm(hidden.to(place)).cpu() for hidden in stream.hidden]


def measure(
    model: PreTrainedModel,
    cut: Mapping[HalfName, Candidates],
    windows: Tensor,
    reference: list[Tensor],
    batch_size: int,
    seed: int,
) -> Measured:
    """The KL divergence of a cut model from the uncut one, and what it would be with one half at another width.

    With another projection a half adds δ to the residual stream. The divergence changes by about
    Σ g·δ + ½ E[(ĝ·δ)²]: g is the gradient of the divergence there, ĝ that of the log-likelihood of a token drawn from
    the cut model's own distribution, whose second moment is the curvature (Fisher information).

    Args:
        model: the model with the cut's output projections in place.
        cut: the halves that may move, with their candidates.
        windows: tokens that the projections were not fitted to, (windows, seq).
        reference: `final_states` of the uncut model for the same windows and batch size.
        batch_size: windows that go through the model at once.
        seed: of the tokens drawn.
    """
    # Drawn for all windows at once, so that several processes draw what one does.
    chances = torch.rand(windows.shape, generator=torch.Generator().manual_seed(seed))
    names = [(name, steps) for name, half in cut.items() for steps in half.others]
    slopes, curvatures = torch.zeros(2, len(names), dtype=torch.float64)
    divergence = 0.0
    adapter = adapter_of(model)
    differences = {
        (name, steps): weight - cut[name].present for name in cut for steps, weight in cut[name].others.items()
    }
    with only_gradients_of(model, []):
        batches = list(zip(shared_batches(windows, batch_size), shared_batches(chances, batch_size), strict=True))
        for (tokens, chance), uncut in zip(track(batches, "Measuring the cut"), reference, strict=True):
            with _projection_inputs(model, cut) as inputs:
                streams = residual_streams(model, tokens.to(model.device), recompute=False)
            final = adapter.final_norm(model)(streams[-1])
            pulls, draws, kl = _pulls_on_head(model, final.detach(), uncut.to(final.device), chance)
            divergence += kl
            final.backward(pulls, retain_graph=True)
            towards = _take_gradients(streams)
            final.backward(draws)
            drawn = _take_gradients(streams)
            for position, (name, steps) in enumerate(names):
                where = 2 * name[0] + PARTS.index(name[1])
                added = nn.functional.linear(inputs[name], differences[name, steps]).float()
                slopes[position] += (towards[where].float() * added).sum().item()
                curvatures[position] += 0.5 * (drawn[where].float() * added).sum(-1).square().sum().item()
    divergence, scored = sums_over_processes(divergence, float(share(windows).numel()))
    changes: dict[HalfName, dict[int, float]] = {name: {} for name in cut}
    totals = (sum_over_processes(slopes + curvatures) / scored).tolist()
    for (name, steps), change in zip(names, totals, strict=True):
        changes[name][steps] = change
    return Measured(divergence / scored, changes)


@torch.no_grad()
def _pulls_on_head(
    model: PreTrainedModel, final: Tensor, uncut: Tensor, chances: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Gradients at what goes into the head, of the summed divergence and of drawn tokens' losses; and the divergence.

    Args:
        final: the cut model's states before its head, (batch, seq, hidden_size).
        uncut: the uncut model's.
        chances: a number between 0 and 1 for each token to be drawn, (batch, seq).

    Returns:
        Two tensors shaped like `final`, and the KL divergence in nats, summed over tokens.
    """
    head = model.get_output_embeddings()
    pulls, draws, divergence = [], [], 0.0
    chunks = (tensor.flatten(0, 1).split(CHUNK_TOKENS) for tensor in (final, uncut, chances.unsqueeze(-1)))
    for states, goal, chance in zip(*chunks, strict=True):
        log_probabilities = head(states).float().log_softmax(-1)  # (tokens, vocabulary)
        wanted = head(goal).float().log_softmax(-1)
        probabilities, wanted_probabilities = log_probabilities.exp(), wanted.exp()
        divergence += (wanted_probabilities * (wanted - log_probabilities)).sum().item()
        pull = probabilities - wanted_probabilities
        pulls.append((pull.to(states) @ head.weight).to(states))
        mass = probabilities.cumsum(-1)
        drawn = torch.searchsorted(mass, chance.to(mass.device) * mass[:, -1:]).clamp(max=mass.shape[-1] - 1)
        probabilities.scatter_add_(1, drawn, -torch.ones_like(mass[:, :1]))
        draws.append((probabilities.to(states) @ head.weight).to(states))
    return torch.cat(pulls).view_as(final), torch.cat(draws).view_as(final), divergence


@contextmanager
def _projection_inputs(model: PreTrainedModel, halves: Mapping[HalfName, Any]) -> Iterator[dict[HalfName, Tensor]]:
    """What goes into the output projections of halves while the block runs, (batch, seq, in_features) each."""
    adapter = adapter_of(model)
    inputs: dict[HalfName, Tensor] = {}

    def keep(name: HalfName) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            inputs[name] = given[0].detach()

        return hook

    handles = [
        output_projection(adapter, adapter.layers(model)[name[0]], name[1]).register_forward_pre_hook(keep(name))
        for name in halves
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _take_gradients(streams: list[Tensor]) -> list[Tensor]:
    gradients = [gradient_of(stream) for stream in streams]
    for stream in streams:
        stream.grad = None
    return gradients
