"""The chunked loss against PyTorch's own, values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from secateur.recovery.losses import Teaching, losses_apart, vocabulary_loss

TOKENS, VOCAB, HIDDEN, TEACHER_HIDDEN = 23, 37, 8, 12


@pytest.fixture
def parts() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "states": torch.randn(TOKENS, HIDDEN, generator=generator).requires_grad_(),
        "head": torch.randn(VOCAB, HIDDEN, generator=generator).requires_grad_(),
        "targets": torch.randint(0, VOCAB, (TOKENS,), generator=generator),
        "teacher_states": torch.randn(TOKENS, TEACHER_HIDDEN, generator=generator),
        "teacher_head": torch.randn(VOCAB, TEACHER_HIDDEN, generator=generator),
    }


def reference(parts: dict[str, Tensor], weight: float, temperature: float) -> Tensor:
    logits = parts["states"] @ parts["head"].T
    teacher_logits = parts["teacher_states"] @ parts["teacher_head"].T
    divergence = functional.kl_div(
        (logits / temperature).log_softmax(-1),
        (teacher_logits / temperature).log_softmax(-1),
        reduction="sum",
        log_target=True,
    )
    cross_entropy = functional.cross_entropy(logits, parts["targets"], reduction="sum")
    return (1 - weight) * cross_entropy + weight * temperature**2 * divergence


@pytest.mark.parametrize("chunk_tokens", [1, 5, 23, 1000])
@pytest.mark.parametrize(("weight", "temperature"), [(0.0, 1.0), (0.3, 1.0), (0.5, 2.0), (1.0, 4.0)])
def test_equals_autograd(parts: dict[str, Tensor], chunk_tokens: int, weight: float, temperature: float) -> None:
    expected = reference(parts, weight, temperature)
    expected_grads = torch.autograd.grad(3.0 * expected, (parts["states"], parts["head"]))
    teaching = Teaching(parts["teacher_states"], parts["teacher_head"], weight, temperature) if weight else None
    apart = torch.zeros(2)
    loss = vocabulary_loss(parts["states"], parts["head"], parts["targets"], teaching, chunk_tokens, parts=apart)
    torch.testing.assert_close((1 - weight) * apart[0] + weight * temperature**2 * apart[1], loss.detach())
    if teaching is not None:
        measured = losses_apart(parts["states"], parts["head"], parts["targets"], teaching, None)
        torch.testing.assert_close(measured, apart, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(3.0 * loss, (parts["states"], parts["head"]))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-4)


def test_a_frozen_head_gets_no_gradient(parts: dict[str, Tensor]) -> None:
    head = parts["head"].detach()
    vocabulary_loss(parts["states"], head, parts["targets"]).backward()
    assert head.grad is None
    assert parts["states"].grad is not None


def test_a_teacher_that_agrees_has_no_divergence(parts: dict[str, Tensor]) -> None:
    states, head = parts["states"], parts["head"]
    loss = vocabulary_loss(states, head, parts["targets"], Teaching(states.detach(), head.detach(), 1.0, 2.0))
    loss.backward()
    assert abs(loss.item()) < 1e-4
    assert states.grad is not None
    assert float(states.grad.abs().max()) < 1e-5


def test_low_precision_follows_autocast(parts: dict[str, Tensor]) -> None:
    expected = reference(parts, 0.5, 1.0)
    expected.backward()
    exact = parts["states"].grad
    parts["states"].grad = None
    teaching = Teaching(parts["teacher_states"], parts["teacher_head"].bfloat16(), 0.5, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vocabulary_loss(parts["states"], parts["head"], parts["targets"], teaching)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected.detach(), rtol=0.02, atol=0.1)
    torch.testing.assert_close(parts["states"].grad, exact, rtol=0.1, atol=0.1)


def test_no_scored_token_gives_zero(parts: dict[str, Tensor]) -> None:
    loss = vocabulary_loss(parts["states"][:0], parts["head"], parts["targets"][:0])
    loss.backward()
    assert loss.item() == 0
