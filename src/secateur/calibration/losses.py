"""Language-model losses in chunks of tokens, so that a whole batch's logits never stand in memory at once."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from secateur.data import IGNORED
from secateur.models.adapters import Head, head_of

CHUNK_TOKENS = 1024


def token_losses(model: PreTrainedModel, hidden: Tensor, labels: Tensor, chunk_tokens: int = CHUNK_TOKENS) -> Tensor:
    """Cross entropy of each token given the hidden state before it.

    Args:
        model: a causal language model; only its head is run.
        hidden: the decoder's last hidden states, (batch, seq, hidden_size).
        labels: the tokens, (batch, seq); `-100` is not scored.
        chunk_tokens: how many tokens' logits are held at once.

    Returns:
        Losses in nats, float32, (batch, seq - 1): entry t is for token t + 1; 0 where the label is -100.
    """
    head = head_of(model)
    flat, targets = _shifted(hidden, labels)  # (tokens, hidden_size), (tokens,)
    losses = [
        _losses(head, states, target, reduction="none", ignore_index=IGNORED)
        for states, target in zip(flat.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    ]
    return torch.cat(losses).view(labels.shape[0], -1)


@torch.no_grad()
def summed_divergence(model: PreTrainedModel, found: Tensor, wanted: Tensor, chunk_tokens: int = CHUNK_TOKENS) -> float:
    """KL divergence of the next token's distribution from what it should be, summed over tokens, in nats.

    Args:
        model: a causal language model; only its head is run.
        found: last hidden states, behind the final norm, (batch, seq, hidden_size).
        wanted: those of the model that is compared with.
        chunk_tokens: how many tokens' logits are held at once.
    """
    head, total = head_of(model), 0.0
    flat = (states.to(head.weight.device).flatten(0, 1).split(chunk_tokens) for states in (found, wanted))
    for chunk in zip(*flat, strict=True):
        ours, theirs = (head(states).float().log_softmax(-1) for states in chunk)
        total += functional.kl_div(ours, theirs, reduction="sum", log_target=True).item()
    return total


def chunked_loss(model: PreTrainedModel, hidden: Tensor, labels: Tensor, chunk_tokens: int = CHUNK_TOKENS) -> Tensor:
    """Summed cross entropy, differentiable; each chunk's logits are computed anew in the backward pass.

    Args:
        model: a causal language model; only its head is run.
        hidden: the decoder's last hidden states, (batch, seq, hidden_size).
        labels: the tokens, (batch, seq); tokens labelled `-100` take no part.
        chunk_tokens: how many tokens' logits are held at once.

    Returns:
        The sum over tokens in nats, a float32 scalar. Divide by the number of scored tokens for a mean.
    """
    head = head_of(model)
    flat, targets = _shifted(hidden, labels)
    scored = targets != IGNORED
    flat, targets = flat[scored], targets[scored]
    total = hidden.new_zeros((), dtype=torch.float32)
    for states, target in zip(flat.split(chunk_tokens), targets.split(chunk_tokens), strict=True):
        total = total + checkpoint(_losses, head, states, target, use_reentrant=False, reduction="sum").to(total.device)
    return total


def _losses(head: Head, states: Tensor, targets: Tensor, **options: Any) -> Tensor:
    logits = head(states).float()  # (tokens, vocabulary), where the head is
    return functional.cross_entropy(logits, targets.to(logits.device), **options)


def _shifted(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    flat = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    targets = labels[:, 1:].reshape(-1).to(flat.device)
    return flat, targets
