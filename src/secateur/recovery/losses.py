"""Cross entropy and distillation over a large vocabulary.

The logits of a batch are larger than everything else in training a small model. Here they are made for a few tokens at
a time, turned into the loss and its gradient by the closed form, and dropped: nothing of them is kept or computed again
for the backward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CPU_BUFFER_BYTES = 1 << 26
GPU_BUFFER_BYTES = 1 << 29


@dataclass(frozen=True)
class Teaching:
    """What a teacher says about the scored tokens.

    Attributes:
        states: its last hidden states before each scored token, (tokens, its hidden_size).
        head: its output embedding, (vocab, its hidden_size).
        weight: share of the distillation in the loss.
        temperature: softens both distributions.
        softcap: c, where its logits z become c tanh(z / c); None without.
    """

    states: Tensor
    head: Tensor
    weight: float
    temperature: float
    softcap: float | None = None


def vocabulary_loss(
    states: Tensor,
    head: Tensor,
    targets: Tensor,
    teaching: Teaching | None = None,
    chunk_tokens: int | None = None,
    softcap: float | None = None,
    parts: Tensor | None = None,
) -> Tensor:
    """Summed loss of next tokens: `(1 - w) CE + w T² KL(teacher ‖ student)`, or cross entropy alone.

    Source of the distillation: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network".

    Args:
        states: last hidden states before each scored token, (tokens, hidden_size).
        head: output embedding, (vocab, hidden_size).
        targets: the tokens, (tokens,).
        teaching: the teacher's side; without it w is 0.
        chunk_tokens: tokens whose logits are held at once; by default as many as fit a buffer.
        softcap: c, where logits z become c tanh(z / c); None without.
        parts: where the summed cross entropy and the summed KL(teacher ‖ student) at the teacher's temperature are
            added, (2,).

    Returns:
        The sum over tokens in nats, a float32 scalar, differentiable by `states` and `head`.
    """
    return _VocabularyLoss.apply(states, head, targets, teaching, chunk_tokens or _chunk_tokens(head), softcap, parts)


@torch.no_grad()
def losses_apart(states: Tensor, head: Tensor, targets: Tensor, teaching: Teaching, softcap: float | None) -> Tensor:
    """The summed cross entropy and the summed KL(teacher ‖ student), (2,). Arguments as `vocabulary_loss`."""
    parts = torch.zeros(2, dtype=torch.float32, device=states.device)
    with _computing_in(states.device.type, head) as dtype:
        states, head = states.to(dtype), head.to(dtype)
        _loss_and_gradients(states, head, targets, teaching, _chunk_tokens(head), softcap, False, parts, learn=False)
    return parts


@contextmanager
def _computing_in(device: str, head: Tensor) -> Iterator[torch.dtype]:
    """Without autocast, in whose number format, or else the head's, the block is to compute."""
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.dtype
    with torch.autocast(device, enabled=False):
        yield dtype


def _chunk_tokens(head: Tensor) -> int:
    buffer = CPU_BUFFER_BYTES if head.device.type == "cpu" else GPU_BUFFER_BYTES
    return max(16, buffer // (4 * head.shape[0]))


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        head: Tensor,
        targets: Tensor,
        teaching: Teaching | None,
        chunk_tokens: int,
        softcap: float | None,
        parts: Tensor | None,
    ) -> Tensor:
        train_head = ctx.needs_input_grad[1]
        with _computing_in(states.device.type, head) as dtype:
            loss, states_grad, head_grad = _loss_and_gradients(
                states.to(dtype), head.to(dtype), targets, teaching, chunk_tokens, softcap, train_head, parts
            )
        ctx.save_for_backward(states_grad.to(states.dtype), None if head_grad is None else head_grad.to(head.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        states_grad, head_grad = ctx.saved_tensors
        (factor,) = outer
        head_grad = None if head_grad is None else head_grad * factor
        return states_grad * factor, head_grad, None, None, None, None, None


def _loss_and_gradients(
    states: Tensor,
    head: Tensor,
    targets: Tensor,
    teaching: Teaching | None,
    chunk_tokens: int,
    softcap: float | None,
    train_head: bool,
    parts: Tensor | None,
    learn: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The loss, its gradient by the states (tokens, hidden_size), and by the head (vocab, hidden_size) if wanted.

    Its parts are added to `parts`. Without `learn` there are no gradients.
    """
    vocab = head.shape[0]
    # Fresh memory of this size costs as much as the arithmetic on it, so the chunks share these.
    buffers = [
        torch.empty(min(chunk_tokens, len(targets)), vocab, dtype=torch.float32, device=states.device)
        for _ in range(_buffers_needed(teaching))
    ]
    total = torch.zeros((), dtype=torch.float32, device=states.device)
    states_grad = torch.empty_like(states)
    head_grad = torch.zeros(head.shape, dtype=torch.float32, device=head.device) if train_head else None
    for start in range(0, len(targets), chunk_tokens):
        place = slice(start, start + chunk_tokens)
        rooms = [buffer[: len(targets[place])] for buffer in buffers]
        _capped(_project(states[place], head, rooms[0]), softcap)
        slope = None if softcap is None else 1 - (rooms[0] / softcap).square_()  # of the cap, by what it gives
        if teaching is None:
            cross_entropy, logits_grad = _cross_entropy(targets[place], rooms)
            divergence = torch.zeros_like(cross_entropy)
            total += cross_entropy
        else:
            cross_entropy, divergence, logits_grad = _distillation(
                targets[place], teaching, teaching.states[place], rooms
            )
            weight, temperature = teaching.weight, teaching.temperature
            total += (1 - weight) * cross_entropy + weight * temperature**2 * divergence
        if parts is not None:
            parts += torch.stack([cross_entropy, divergence]).to(parts.device)
        if not learn:
            continue
        if slope is not None:
            logits_grad.mul_(slope)
        states_grad[place] = logits_grad.to(head.dtype) @ head  # (chunk, vocab) @ (vocab, hidden_size)
        if head_grad is not None:
            head_grad.addmm_(logits_grad.t(), states[place].float())
    return total, states_grad, head_grad


def _buffers_needed(teaching: Teaching | None) -> int:
    if teaching is None:
        return 2
    return 3 if teaching.temperature == 1 else 4


def _project(states: Tensor, head: Tensor, out: Tensor) -> Tensor:
    """Logits, (chunk, vocab) float32, into `out`."""
    if head.dtype == out.dtype:
        return torch.mm(states, head.t(), out=out)
    return out.copy_(states.to(head.dtype) @ head.t())


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    """c tanh(z / c) in the place of logits z."""
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def _cross_entropy(targets: Tensor, rooms: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The loss and p - onehot(target), from the logits in `rooms[0]`."""
    log_p = torch.log_softmax(rooms[0], -1, out=rooms[1])
    loss = -log_p.gather(1, targets[:, None]).sum()
    return loss, _minus_target(log_p.exp_(), targets, 1.0)


def _distillation(
    targets: Tensor, teaching: Teaching, teacher_states: Tensor, rooms: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy, divergence and (1 - w) (p - onehot) + w T (p_T - q_T), from the logits in `rooms[0]`."""
    weight, temperature = teaching.weight, teaching.temperature
    log_p = torch.log_softmax(rooms[0], -1, out=rooms[1])
    cross_entropy = -log_p.gather(1, targets[:, None]).sum()
    soft_log_p = log_p
    if temperature != 1:
        soft_log_p = torch.log_softmax(rooms[0].div_(temperature), -1, out=rooms[3])
    _capped(_project(teacher_states, teaching.head, rooms[0]), teaching.softcap).div_(temperature)
    log_q = torch.log_softmax(rooms[0], -1, out=rooms[2])
    q = torch.exp(log_q, out=rooms[0])
    divergence = torch.dot(q.view(-1), log_q.sub_(soft_log_p).view(-1))
    gradient = log_p.exp_()
    if temperature == 1:
        gradient.sub_(q, alpha=weight)
    else:
        gradient.mul_(1 - weight).add_(soft_log_p.exp_().sub_(q), alpha=weight * temperature)
    return cross_entropy, divergence, _minus_target(gradient, targets, 1 - weight)


def _minus_target(gradient: Tensor, targets: Tensor, amount: float) -> Tensor:
    return gradient.scatter_add_(1, targets[:, None], torch.full_like(targets[:, None], -amount, dtype=torch.float32))
