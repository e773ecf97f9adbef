"""The re-fit of projections before a norm, on small models that have learned something."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.calibration import targets
from secateur.models import adapter_of
from secateur.models.halves import PARTS, Half
from secateur.pruning import cutting
from secateur.pruning.scoring import obs_scores
from tiny import make_tiny_model

STEPS = 120
COUNTS = (1, 24)  # groups of 4 and channels of 96 that every layer loses


def text() -> Tensor:
    """Sums, spelled out: something to learn that is not the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(0, 100, (3000, 2), generator=generator).tolist()
    return torch.tensor(list(" ".join(f"{one} and {other} make {one + other}." for one, other in pairs).encode()))


def windows(tokens: Tensor, count: int, seed: int, length: int = 48) -> Tensor:
    starts = torch.randint(0, len(tokens) - length, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([tokens[start : start + length] for start in starts.tolist()])


def trained(family: str, tokens: Tensor) -> PreTrainedModel:
    model = make_tiny_model(family).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        batch = windows(tokens, 8, step)
        model(batch, labels=batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def as_without_a_norm(
    half: Half, inputs: list[Tensor], hidden: list[Tensor], goals: list[Tensor], mixed: list[Tensor] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Towards what the stream lacks, as if nothing stood between."""
    for batch, before, goal in zip(inputs, hidden, goals, strict=True):
        yield batch.flatten(0, -2), ((goal - before) / half.multiplier).flatten(0, -2)


def towards_own_output(
    half: Half, inputs: list[Tensor], hidden: list[Tensor], goals: list[Tensor], mixed: list[Tensor] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Towards what the uncut projection gives, every token alike."""
    assert mixed is not None
    for batch, given in zip(inputs, mixed, strict=True):
        yield batch.flatten(0, -2), given.flatten(0, -2)


@torch.no_grad()
def divergence(cut: PreTrainedModel, uncut: PreTrainedModel, held_out: Tensor) -> float:
    """KL(uncut ‖ cut) of the next token, the mean over all tokens."""
    ours, theirs = (functional.log_softmax(model(held_out).logits, -1) for model in (cut, uncut))
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["olmo2", "gemma3_text"])
def test_fitting_what_goes_into_the_norm_is_best(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = text()
    first, last = tokens[: len(tokens) * 4 // 5], tokens[len(tokens) * 4 // 5 :]
    model = trained(family, first)
    calibration, held_out = windows(first, 64, 1), windows(last, 64, 2)
    scores = obs_scores(model, calibration, 8, 0.01)
    counts = {(layer, part): count for layer in range(4) for part, count in zip(PARTS, COUNTS, strict=True)}

    def after(way: Callable[..., Iterator[tuple[Tensor, Tensor]]]) -> float:
        cut = copy.deepcopy(model)
        monkeypatch.setattr(cutting, "towards", way)
        cutting.cut_and_refit(cut, scores, counts, calibration, 8, 0.01)
        return divergence(cut, model, held_out)

    ours = after(targets.towards)
    plain = [after(way) for way in (as_without_a_norm, towards_own_output)]
    assert ours < 0.9 * min(plain)  # 0.75 and 0.53 of it when this was written


@pytest.mark.parametrize("kind", [nn.RMSNorm, nn.LayerNorm])
def test_gains_of_a_norm_are_found(kind: Callable[[int], nn.Module]) -> None:
    """Those of a LayerNorm as well, whose bias is none."""
    model = make_tiny_model("olmo2")
    layer = adapter_of(model).layers(model)[0]
    norm = kind(64)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    layer.post_feedforward_layernorm = norm
    found = targets.gains(adapter_of(model).half(layer, "mlp"))
    torch.testing.assert_close(found, norm.weight.detach(), rtol=1e-4, atol=1e-5)
